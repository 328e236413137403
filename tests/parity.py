"""What parity tests draw - rows, corrections, questions - and the oracle that answers by looking at every row.

Nothing here is read from the catalog or the database: the oracle knows the rules of DESIGN §2 and nothing else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from psycopg import sql

from featurectl.core.db import Connection
from featurectl.core.schema import table_identifier

START = datetime(2024, 3, 31, tzinfo=UTC)  # clocks change on that day, in Europe
HOUR, MINUTE, MICROSECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(microseconds=1)
SPAN = 12 * HOUR
EARLIEST = datetime.min.replace(tzinfo=UTC)
SYMBOLS = ("BTCUSDT", "btcusdt", "BTC_USDT", "BTC_USDT_PERP", "1INCH", "É-USD")
TIMEFRAMES = ("1m", "1h")
NEVER_SEEN = "GONE"
NAN, INFINITY = math.nan, math.inf

Key = tuple[str, ...]

# Views of the tests' own, beside the default ones: what those do not have is here.
DEFINITIONS = """
from datetime import timedelta

from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

from feature_repo.entities import symbol, timeframe

typed = FeatureView(
    name="typed",
    entities=[timeframe, symbol],
    ttl=timedelta(0),
    schema=[
        Field(name="whole", dtype=Int64), Field(name="small", dtype=Int64), Field(name="half", dtype=Int32),
        Field(name="yes", dtype=Bool), Field(name="word", dtype=String), Field(name="single", dtype=Float32),
        Field(name="exact", dtype=Float64), Field(name="opened", dtype=UnixTimestamp),
        Field(name="closed", dtype=UnixTimestamp), Field(name="raw", dtype=Bytes),
        Field(name="rates", dtype=Array(Float64)), Field(name="counts", dtype=Array(Int64)),
        Field(name="words", dtype=Array(String)), Field(name="flags", dtype=Array(Bool)),
    ],
    source=PostgreSQLSource(
        name="typed", table="public.typed", timestamp_field="at", created_timestamp_column="written",
        field_mapping={"w h%le": "whole"},
    ),
)

zoneless = FeatureView(
    name="zoneless",
    entities=[symbol, timeframe],
    ttl=timedelta(minutes=90),
    schema=[Field(name="level", dtype=Float64), Field(name="phase", dtype=Float32)],
    source=PostgreSQLSource(
        name="zoneless", table="public.zoneless", timestamp_field="at", created_timestamp_column="written"
    ),
)

queried = FeatureView(
    name="queried",
    entities=[symbol],
    ttl=timedelta(minutes=10, microseconds=7),
    schema=[Field(name="quote", dtype=Float64), Field(name="note", dtype=String)],
    source=PostgreSQLSource(
        name="queried",
        query="SELECT *, 9 % 7 AS two FROM public.queried WHERE note IS NULL OR note NOT LIKE 'drop%' -- 100 %; {x}",
        timestamp_field="at",
    ),
)

daily = FeatureView(
    name="daily",
    entities=[timeframe],
    ttl=timedelta(days=1),
    schema=[Field(name="holiday", dtype=Bool), Field(name="turnover", dtype=Float64)],
    source=PostgreSQLSource(name="daily", table="public.daily", timestamp_field="day"),
)
"""

TABLES = """
CREATE TABLE public.typed (
    symbol text, timeframe text, at timestamptz, written timestamptz, "w h%le" bigint, small smallint, half integer,
    yes boolean, word varchar(40), single real, exact numeric, opened timestamptz, closed timestamp, raw bytea,
    rates float8[], counts bigint[], words text[], flags boolean[]);
CREATE INDEX ON public.typed (symbol, timeframe, at);
CREATE TABLE public.zoneless (
    symbol varchar(20), timeframe text, at timestamp, written timestamp, level float8, phase real);
CREATE TABLE public.queried (symbol text, at timestamptz, quote float8, note text);
CREATE TABLE public.daily (timeframe text, day date, holiday boolean, turnover float8, PRIMARY KEY (timeframe, day))
"""


@dataclass(frozen=True)
class Feature:
    """A feature: its name, what is drawn for it, and its column where that has another name."""

    name: str
    kind: str
    column: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a view's history, with the values as they are stored."""

    key: Key
    event: datetime
    created: datetime | None
    values: dict[str, Any]

    @property
    def is_hidden(self) -> bool:
        """Whether the query of its view's source leaves it out."""
        return str(self.values.get("note")).startswith("drop")

    @property
    def rank(self) -> tuple[datetime, datetime]:
        return self.event, self.created or EARLIEST


@dataclass
class View:
    """A view: what its definition says, its rows, and those that are online.

    ``repeats`` says that an event may have several rows; in a table of ours its key forbids it. ``step`` is how far
    apart its rows are drawn.
    """

    name: str
    table: str
    keys: tuple[str, ...]
    ttl: timedelta | None
    features: tuple[Feature, ...]
    step: timedelta
    event: str = "event_timestamp"
    created: str | None = "created_timestamp"
    zoneless: bool = False
    repeats: bool = False
    online: bool = True
    rows: list[Row] = field(default_factory=list)
    online_rows: dict[Key, Row] = field(default_factory=dict)

    def history(self) -> Iterable[Row]:
        """Return the rows that the view's source has."""
        return [row for row in self.rows if not row.is_hidden]

    def newest(self, key: Key, at: datetime) -> Row | None:
        """Look at every row: the latest event up to an instant counts, of equal ones the latest write."""
        known = [row for row in self.history() if row.key == key and row.event <= at]
        return max(known, key=lambda row: row.rank, default=None)

    def serving(self, key: Key, at: datetime) -> dict[str, Any]:
        """Return what a training set has of an instant."""
        row = self.newest(key, at)
        if row is None or (self.ttl is not None and at - row.event > self.ttl):
            return {feature.name: None for feature in self.features}
        return self.shown(row)

    def shown(self, row: Row) -> dict[str, Any]:
        return {feature.name: shown(row.values[feature.name]) for feature in self.features}

    def materialize(self, at: datetime) -> None:
        """Bring each entity's newest row online, unless that would move it back."""
        for key in {row.key for row in self.history()}:
            row, before = self.newest(key, at), self.online_rows.get(key)
            if row is not None and (before is None or row.rank >= before.rank):
                self.online_rows[key] = row

    def key(self, symbol: str, timeframe: str) -> Key:
        values = {"symbol": symbol, "timeframe": timeframe}
        return tuple(values[name] for name in self.keys)


@dataclass
class Composite(View):
    """A view whose rows are those of its first part, with the others as of the same instants."""

    parts: tuple[View, ...] = ()

    def history(self) -> Iterable[Row]:
        return self.parts[0].history()

    def shown(self, row: Row) -> dict[str, Any]:
        first, *others = self.parts
        values = first.shown(row)
        for part in others:
            values |= part.serving(part.key(*row.key), row.event)
        return values


def shown(value: Any) -> Any:
    """Return a stored value as every path gives it: a NaN is a null, infinity is a number."""
    if isinstance(value, Decimal):
        value = float(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def default_views() -> list[View]:
    """Return the views of the default repository and those of ``DEFINITIONS``, without rows."""

    def floats(*names: str) -> tuple[Feature, ...]:
        return tuple(Feature(name, "float") for name in names)

    both = ("symbol", "timeframe")
    indicators = ("rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio")
    technical = View(
        "technical_indicators_view", "features.technical_indicators", both, HOUR, floats(*indicators), 30 * MINUTE
    )
    trading = floats("bid_ask_spread", "order_book_imbalance", "trade_size_avg")
    market = View("market_features_view", "features.market_features", both, 5 * MINUTE, trading, 5 * MINUTE)
    scores = floats("news_sentiment", "social_sentiment", "fear_greed_index")
    sentiment = View(
        "sentiment_features_view", "features.sentiment_features", ("symbol",), 30 * MINUTE, scores, 15 * MINUTE
    )
    every = (technical, market, sentiment)
    features = tuple(feature for view in every for feature in view.features)
    composite = Composite(
        "comprehensive_features_view", "", both, 24 * HOUR, features, HOUR, online=False, parts=every
    )  # fmt: skip
    own = {"event": "at", "created": "written", "repeats": True}
    kinds = {
        "whole": "bigint", "small": "smallint", "half": "integer", "yes": "bool", "word": "text", "single": "real",
        "exact": "numeric", "opened": "time", "closed": "time", "raw": "bytes", "rates": "floats", "counts": "bigints",
        "words": "texts", "flags": "bools",
    }  # fmt: skip
    columns = tuple(Feature(name, kind, "w h%le" if name == "whole" else "") for name, kind in kinds.items())
    return [
        *every,
        composite,
        View("typed", "public.typed", ("timeframe", "symbol"), None, columns, HOUR, **own),
        View(
            "zoneless", "public.zoneless", both, 90 * MINUTE, (Feature("level", "float"), Feature("phase", "real")),
            45 * MINUTE, zoneless=True, **own,
        ),
        View(
            "queried", "public.queried", ("symbol",), timedelta(minutes=10, microseconds=7),
            (Feature("quote", "float"), Feature("note", "text")), 10 * MINUTE, event="at", created=None,
        ),
        View(
            "daily", "public.daily", ("timeframe",), 24 * HOUR,
            (Feature("holiday", "bool"), Feature("turnover", "float")), 24 * HOUR,
            event="day", created=None, zoneless=True,
        ),
    ]  # fmt: skip


# --- rows ------------------------------------------------------------------------------------------------------------


class History:
    """The rows of all views: drawn, corrected, and written to the database as they are drawn."""

    def __init__(self, draw: random.Random, connection: Connection) -> None:
        self.draw = draw
        self.connection = connection
        self.views = {view.name: view for view in default_views()}
        self.symbols = draw.sample(SYMBOLS, 3)
        self._written = START + 2 * SPAN
        for view in self.stored():
            connection.execute(sql.SQL("TRUNCATE {}").format(table_identifier(view.table)))
            self.add(view, [row for key in self._keys(view) for row in self._series(view, key)])

    def stored(self) -> list[View]:
        return [view for view in self.views.values() if view.table]

    def online(self) -> list[View]:
        return [view for view in self.views.values() if view.online]

    def add(self, view: View, rows: Sequence[Row]) -> None:
        """Write rows; in a table of ours over those of the same key and event."""
        if not view.repeats:
            known = {(row.key, row.event): row for row in (*view.rows, *rows)}
            replaced = {(row.key, row.event) for row in rows} & {(row.key, row.event) for row in view.rows}
            self._delete(view, replaced)
            view.rows = list(known.values())
            rows = [known[place] for place in dict.fromkeys((row.key, row.event) for row in rows)]
        else:
            view.rows += rows
        names = [*view.keys, view.event, *([view.created] if view.created else [])]
        # psycopg takes a bare % for a parameter.
        names += [(feature.column or feature.name).replace("%", "%%") for feature in view.features]
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            table_identifier(view.table),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join([sql.Placeholder()] * len(names)),
        )
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(statement, [self._stored(view, row) for row in rows])

    def disturb(self, *, hiding: bool = True) -> None:
        """Have rows arrive late, and others corrected, in every view; ``hiding`` also such that a query drops them."""
        for view in self.stored():
            late = [
                self._row(view, key, self._event(view, self.draw.randrange(_count(view))))
                for key in self.draw.choices(self._keys(view), k=3)
            ]
            known = self.draw.sample(view.rows, min(len(view.rows), 8))
            # The newest rows are those that reads see.
            known += [row for row in view.online_rows.values() if self.draw.random() < 0.3]
            rows = [*late, *(self._row(view, row.key, row.event) for row in known)]
            self.add(view, [row for row in rows if hiding or not row.is_hidden])

    def _delete(self, view: View, places: Iterable[tuple[Key, datetime]]) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, (*view.keys, view.event)))
        marks = sql.SQL(", ").join([sql.Placeholder()] * (len(view.keys) + 1))
        statement = sql.SQL("DELETE FROM {} WHERE ({}) = ({})").format(table_identifier(view.table), names, marks)
        with self.connection.cursor() as cursor:
            cursor.executemany(statement, [(*key, self._time(view, event)) for key, event in places])

    def _stored(self, view: View, row: Row) -> tuple[Any, ...]:
        created = (self._time(view, row.created) if row.created else None,) if view.created else ()
        values = (row.values[feature.name] for feature in view.features)
        return (*row.key, self._time(view, row.event), *created, *values)

    @staticmethod
    def _time(view: View, instant: datetime) -> datetime:
        return instant.replace(tzinfo=None) if view.zoneless else instant

    def _keys(self, view: View) -> list[Key]:
        pairs = [(symbol, timeframe) for symbol in self.symbols for timeframe in TIMEFRAMES]
        return list(dict.fromkeys(view.key(*pair) for pair in pairs))

    def _series(self, view: View, key: Key) -> list[Row]:
        """Return rows in no order of their writing, with gaps between them; now and then none."""
        if self.draw.random() < 0.1:
            return []
        gaps = self.draw.choice([0, 0.2, 0.7])
        events = [self._event(view, index) for index in range(_count(view)) if self.draw.random() >= gaps]
        self.draw.shuffle(events)
        rows = [self._row(view, key, event) for event in events]
        if view.repeats:
            # One row of an event may have no created time; what has one counts before it.
            rows = [replace(row, created=None) if self.draw.random() < 0.2 else row for row in rows]
            rows += [self._row(view, key, event) for event in self.draw.sample(events, len(events) // 3)]
        return rows

    def _event(self, view: View, index: int) -> datetime:
        return self._beside(view, START + SPAN - index * view.step)

    def _beside(self, view: View, event: datetime) -> datetime:
        if view.name == "daily":
            return event.replace(hour=0)
        return event + self.draw.choice([-1, 0, 0, 0, 0, 0, 1]) * MICROSECOND

    def _row(self, view: View, key: Key, event: datetime) -> Row:
        self._written += MICROSECOND
        values = {feature.name: self._value(feature.kind) for feature in view.features}
        return Row(key, event, self._written if view.created else None, values)

    def _value(self, kind: str) -> Any:
        if self.draw.random() < 0.12:
            return None
        if kind.endswith("s") and kind != "bytes":
            element = {"float": "float", "bigint": "bigint", "text": "text", "bool": "bool"}[kind[:-1]]
            values = [self._value(element) for _ in range(self.draw.randrange(4))]
            return [value for value in values if value is not None]
        return self.draw.choice(_VALUES[kind])(self.draw)


def _count(view: View) -> int:
    return max(3, min(60, SPAN // view.step + 1))


def _integers(bits: int) -> list[Any]:
    largest = 2 ** (bits - 1)
    return [lambda _: largest - 1, lambda _: -largest, lambda draw: draw.randrange(-largest, largest), lambda _: 0]


_VALUES: dict[str, list[Any]] = {
    "float": [
        *[lambda draw: draw.gauss(0, 100)] * 12,
        *[lambda _, value=value: value for value in (NAN, NAN, INFINITY, -INFINITY, 0.1 + 0.2, 5e-324, 1e300, 0.0)],
    ],
    "real": [
        *[lambda draw: float(np.float32(draw.gauss(0, 100)))] * 5,
        *[lambda _, value=value: value for value in (NAN, INFINITY, 0.5, float(np.float32(0.1)))],
    ],
    "numeric": [
        lambda draw: Decimal(draw.randrange(-(10**9), 10**9)).scaleb(-4),
        *[lambda _, text=text: Decimal(text) for text in ("0.1", "NaN", "Infinity", "-1e20", "0.1000000000000000001")],
    ],
    "bigint": _integers(64),
    "integer": _integers(32),
    "smallint": _integers(16),
    "bool": [lambda _: True, lambda _: False],
    "text": [
        lambda draw: str(draw.random()),
        *[lambda _, value=value: value for value in ("", "NaN", "NULL", "naïve 'q' \\ {1,2} \"x\" %s", "dropped")],
    ],
    "bytes": [lambda draw: draw.randbytes(5), lambda _: b"", lambda _: b"\x00\xff\\x"],
    # Feast's timestamps are whole seconds.
    "time": [
        lambda draw: START + timedelta(seconds=draw.randrange(-(10**9), 10**9)),
        lambda _: datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
}  # fmt: skip
