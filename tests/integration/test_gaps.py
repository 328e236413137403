"""Missing bars: found in the database, told apart from those known absent, as core and as command."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from featurectl.cli.app import run
from featurectl.core import schema
from featurectl.core.candles import read_candles
from featurectl.core.db import Connection, open_connection
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.gaps import FOREVER, Declaration, SeriesGaps, declare, find_gaps, read_declarations, withdraw
from featurectl.core.ingest import merge_candles
from featurectl.core.queries import query
from featurectl.core.times import ALWAYS, Window, parse_time
from featurectl.errors import InvalidEntityId, InvalidTime, NotFound, SchemaMissing, UsageError
from tests.fix_database import create_database, drop_database
from tests.fix_repository import DATA, Repo, needs_data
from tests.market import START

HOUR = timedelta(hours=1)
NOW = START + timedelta(days=400)
REAL = [
    ("2021-04-20T02:00Z", 2),
    ("2021-04-25T05:00Z", 3),
    ("2021-08-13T02:00Z", 4),
    ("2021-09-29T07:00Z", 2),
    ("2023-03-24T13:00Z", 1),
]


@pytest.fixture(scope="module")
def database(server: str, template: str) -> Iterator[Connection]:
    """One database for all tests of the core: each begins with an empty market."""
    name = f"featurectl_test_gaps_{random.randrange(2**40):x}"
    with open_connection(create_database(server, name, template), connect_timeout=10) as connection:
        yield connection
    drop_database(server, name)


@pytest.fixture
def connection(database: Connection) -> Connection:
    database.execute("TRUNCATE market.candles, featurectl.known_absent")
    return database


def at(hours: float) -> datetime:
    return START + hours * HOUR


def put_bars(connection: Connection, series: str, numbers: Iterable[int], *, start: datetime = START) -> None:
    """Write the bars of a series that have these numbers, counted from ``start``."""
    symbol, _, timeframe = series.rpartition("_")
    with connection.cursor() as cursor, cursor.copy("COPY market.candles FROM STDIN") as copy:
        for number in numbers:
            opened = start + number * TIMEFRAMES[timeframe]
            copy.write_row((symbol, timeframe, opened, 1.0, 1.0, 1.0, 1.0, 1.0, None, None, START))


def missing(
    connection: Connection, *ids: str, start: datetime | None = None, end: datetime | None = None, now: datetime = NOW
) -> list[tuple[str, datetime, datetime, int, str | None]]:
    survey = find_gaps(connection, ids, Window(start, end), now=now)
    return [(str(gap.entity), gap.first, gap.last, gap.bars, gap.reason) for gap in survey.gaps]


# --- which bars are missing ------------------------------------------------------------------------------------------


def test_a_series_without_holes_lacks_nothing(connection: Connection) -> None:
    put_bars(connection, "A_1h", range(50))
    put_bars(connection, "B_1d", [7])
    survey = find_gaps(connection, now=NOW)
    assert survey.gaps == []
    assert [(str(one.entity), one.expected, one.missing) for one in survey.series] == [("A_1h", 50, 0), ("B_1d", 1, 0)]


def test_each_hole_is_one_gap_and_series_do_not_mix(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 1, 4, 5, 9])
    put_bars(connection, "A_4h", [0, 2])
    put_bars(connection, "B_1h", [20, 22])
    assert missing(connection) == [
        ("A_1h", at(2), at(3), 2, None),
        ("A_1h", at(6), at(8), 3, None),
        ("A_4h", at(4), at(4), 1, None),
        ("B_1h", at(21), at(21), 1, None),
    ]


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_every_timeframe_counts_from_its_own_first_bar(connection: Connection, timeframe: str) -> None:
    """Of 3d bars any midnight may be the first; the others are on the grid that a Monday is on."""
    span = TIMEFRAMES[timeframe]
    start = START + timedelta(days=1) if timeframe == "3d" else START
    put_bars(connection, f"A_{timeframe}", [0, 1, 4, 6], start=start)
    now = start + 9 * span
    expected = [(2, 3, 2), (5, 5, 1)]
    for end, more in ((None, []), (now, [(7, 8, 2)]), (now - timedelta(microseconds=1), [(7, 7, 1)])):
        found = missing(connection, end=end, now=now)
        wanted = [(start + first * span, start + last * span, count) for first, last, count in [*expected, *more]]
        assert [gap[1:4] for gap in found] == wanted


def test_a_window_cuts_holes_at_its_ends(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 10, 11, 20])
    assert missing(connection, start=at(4), end=at(15)) == [
        ("A_1h", at(4), at(9), 6, None),
        ("A_1h", at(12), at(15), 4, None),
    ]
    assert missing(connection, start=at(3.5), end=at(6.5)) == [("A_1h", at(4), at(6), 3, None)]
    assert missing(connection, start=at(5), end=at(5)) == [("A_1h", at(5), at(5), 1, None)]
    assert missing(connection, start=at(10), end=at(11)) == []
    assert missing(connection, start=at(5.1), end=at(5.9)) == [], "no bar opens in between"


def test_bars_before_the_first_one_are_not_missing(connection: Connection) -> None:
    put_bars(connection, "A_1h", [5, 7])
    (one,) = find_gaps(connection, ["A_1h"], Window(at(0), at(6)), now=NOW).series
    assert (one.expected, one.missing, one.first_bar) == (2, 1, at(5))
    (before,) = find_gaps(connection, ["A_1h"], Window(at(0), at(4)), now=NOW).series
    assert (before.expected, before.missing) == (0, 0)


def test_after_the_last_bar_only_an_end_looks_and_only_for_bars_that_had_closed(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 1, 3])
    hole = ("A_1h", at(2), at(2), 1, None)
    assert missing(connection) == [hole]
    assert missing(connection, end=at(5)) == [hole, ("A_1h", at(4), at(4), 1, None)]
    assert missing(connection, end=at(4.9)) == [hole]
    assert missing(connection, start=at(6), end=at(8)) == [("A_1h", at(6), at(7), 2, None)]
    assert missing(connection, start=at(6)) == []


@pytest.mark.parametrize(("now", "count"), [(at(4.99), 0), (at(5), 1), (at(5.5), 1), (at(6), 2), (at(50), 46)])
def test_an_open_bar_is_never_missing(connection: Connection, now: datetime, count: int) -> None:
    put_bars(connection, "A_1h", range(4))
    assert find_gaps(connection, (), Window(None, at(50)), now=now).missing == count


def test_ids_choose_series_and_unknown_ones_are_told_what_there_is(connection: Connection) -> None:
    for series in ("A_1h", "A_4h", "B_1h"):
        put_bars(connection, series, [0, 2])

    def chosen(*ids: str) -> list[str]:
        return [str(one.entity) for one in find_gaps(connection, ids, now=NOW).series]

    assert chosen() == chosen("*") == ["A_1h", "A_4h", "B_1h"]
    assert chosen("A") == chosen("A_4h", "A", "A_1h") == ["A_1h", "A_4h"]
    assert chosen("B", "A_4h") == ["A_4h", "B_1h"]
    assert chosen("*_1h") == ["A_1h", "B_1h"]
    with pytest.raises(NotFound, match=r"^symbol 'C' not found; symbols: A, B; "):
        chosen("A", "C")
    with pytest.raises(NotFound, match=r"^entity 'B_4h' not found; entities: A_1h, A_4h, B_1h; "):
        chosen("B_4h")
    with pytest.raises(InvalidEntityId, match="A_9h"):
        chosen("A_9h")


def test_a_market_without_candles_lacks_nothing(connection: Connection) -> None:
    assert find_gaps(connection, now=NOW).series == ()
    assert find_gaps(connection, ["*"], now=NOW).series == ()
    with pytest.raises(NotFound, match="symbol 'A' not found; symbols: none"):
        find_gaps(connection, ["A"], now=NOW)


def test_only_the_window_and_the_bars_beside_it_are_read(connection: Connection) -> None:
    put_bars(connection, "A_1m", [number for number in range(20_000) if number % 1000 != 7])
    connection.execute("ANALYZE market.candles")
    parameters = {"symbol": "A", "timeframe": "1m", "first": at(100), "last": at(101), "length": timedelta(minutes=1)}
    explained = query("gaps", "holes").as_string(connection)
    plan = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {explained}".encode(), parameters).fetchone()
    assert plan is not None
    assert max(rows_read(plan[0][0]["Plan"])) == 60, "61 minutes, of which one is missing"
    assert missing(connection, start=at(99), end=at(101)) == [
        ("A_1m", moment := START + timedelta(minutes=6007), moment, 1, None)
    ]


def rows_read(plan: dict[str, Any]) -> Iterator[float]:
    yield plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    for part in plan.get("Plans", ()):
        yield from rows_read(part)


@needs_data
def test_the_outages_of_a_real_exchange_are_found(connection: Connection) -> None:
    file = DATA / "candles" / "BTCUSDT_1h.csv.gz"
    read = read_candles(
        str(file), name=file.name, symbol=None, timeframe=None, closed_before=NOW, written_at=None, drop_last=True
    )
    merge_candles(connection, read, now=NOW)
    survey = find_gaps(connection, ["BTCUSDT"], now=NOW)
    assert [(gap.first, gap.bars) for gap in survey.gaps] == [
        (parse_time(first, now=NOW), count) for first, count in REAL
    ]
    (series,) = survey.series
    assert (series.missing, series.expected) == (12, 23_987 + 12)
    declare(connection, ["*_1h"], survey.gaps[1].first, survey.gaps[3].last, "outages of 2021", now=NOW)
    again = find_gaps(connection, ["BTCUSDT"], now=NOW)
    assert (again.missing, again.known_absent) == (3, 9)


# --- which of them are known absent ----------------------------------------------------------------------------------


def test_a_hole_partly_declared_is_split(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 10])
    done = declare(connection, ["A_1h"], at(3), at(5), "outage", now=NOW)
    assert done.bars == 3
    assert missing(connection) == [
        ("A_1h", at(1), at(2), 2, None),
        ("A_1h", at(3), at(5), 3, "outage"),
        ("A_1h", at(6), at(9), 4, None),
    ]
    survey = find_gaps(connection, now=NOW)
    assert (survey.missing, survey.known_absent) == (6, 3)
    assert missing(connection, start=at(5), end=at(6)) == [
        ("A_1h", at(5), at(5), 1, "outage"),
        ("A_1h", at(6), at(6), 1, None),
    ]


def test_a_declaration_says_how_many_bars_are_missing_there(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 10])
    assert declare(connection, ["A_1h"], at(9), at(30), "delisted", now=at(32)).bars == 1 + 20
    assert declare(connection, ["A_1h"], at(10), at(10), "there is one", now=NOW).bars == 0
    assert declare(connection, ["A_1h"], at(3.2), at(3.8), "between bars", now=NOW).bars == 0


def test_what_names_the_series_wins_and_then_what_was_said_last(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 10])
    declare(connection, ["*"], at(0), at(10), "all", now=NOW)
    declare(connection, ["*_1h"], at(2), at(9), "all hours", now=NOW - HOUR)
    declare(connection, ["A"], at(3), at(8), "A", now=NOW - 2 * HOUR)
    declare(connection, ["A_1h"], at(4), at(6), "A_1h", now=NOW - 3 * HOUR)
    declare(connection, ["A_1h"], at(6), at(7), "later", now=NOW - 2 * HOUR)
    assert [gap[3:] for gap in missing(connection)] == [
        (1, "all"),
        (1, "all hours"),
        (1, "A"),
        (2, "A_1h"),
        (2, "later"),
        (1, "A"),
        (1, "all hours"),
    ]


def test_stars_and_symbols_reach_the_series_they_mean(connection: Connection) -> None:
    for series in ("A_1h", "A_4h", "B_1h", "B_4h"):
        put_bars(connection, series, [0, 2])

    def absent(*ids: str) -> list[str]:
        connection.execute("TRUNCATE featurectl.known_absent")
        declare(connection, ids, at(0), at(10), "x", now=NOW)
        return [str(one.entity) for one in find_gaps(connection, now=NOW).series if one.known_absent]

    assert absent("A_1h") == ["A_1h"]
    assert absent("A") == ["A_1h", "A_4h"]
    assert absent("*_4h") == ["A_4h", "B_4h"]
    assert absent("*") == ["A_1h", "A_4h", "B_1h", "B_4h"]
    assert absent("*_1d", "B_1h") == ["B_1h"]


def test_declaring_again_changes_nothing_but_the_reason(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 5])
    first = declare(connection, ["A_1h"], at(1), at(2), "outage", now=NOW).declarations
    assert first == [Declaration("A", "1h", at(1), at(2), "outage", NOW)]
    assert declare(connection, ["A_1h", "A_1h"], at(1), at(2), " outage ", now=NOW + HOUR).declarations == first
    declare(connection, ["A_1h"], at(1), at(2), "upgrade", now=NOW + HOUR)
    assert read_declarations(connection) == [Declaration("A", "1h", at(1), at(2), "upgrade", NOW + HOUR)]


def test_a_declaration_is_taken_back_by_its_exact_range(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 5])
    declare(connection, ["A_1h", "A"], at(1), at(2), "outage", now=NOW)
    with pytest.raises(NotFound, match=r"declaration 'B 2024-.* not found; declarations: A 2024-\S+ \.\. 2024-\S+"):
        withdraw(connection, ["A", "A_1h", "B"], at(1), at(2))
    with pytest.raises(NotFound):
        withdraw(connection, ["A_1h"], at(1), at(3))
    assert len(read_declarations(connection)) == 2, "all or none"
    assert [str(one.entity) for one in withdraw(connection, ["A_1h"], at(1), at(2))] == ["A_1h"]
    assert missing(connection)[0] == ("A_1h", at(1), at(2), 2, "outage"), "what is declared of A stays"
    withdraw(connection, ["A"], at(1), at(2))
    assert missing(connection) == [("A_1h", at(1), at(4), 4, None)]


def test_declarations_are_listed_by_what_they_concern(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0])
    put_bars(connection, "B_4h", [0])
    declare(connection, ["A", "A_1h", "B", "B_4h", "*", "*_1h"], at(0), at(9), "x", now=NOW)

    def listed(*ids: str) -> list[str]:
        return [str(one.entity) for one in read_declarations(connection, ids)]

    assert listed() == ["*", "*_1h", "A", "A_1h", "B", "B_4h"]
    assert listed("A_1h") == ["*", "*_1h", "A", "A_1h"]
    assert listed("B") == ["*", "*_1h", "B", "B_4h"]
    assert listed("*_4h") == ["*", "A", "B", "B_4h"]


def test_what_can_not_be_declared_is_refused_and_nothing_is_kept(connection: Connection) -> None:
    put_bars(connection, "A_1h", [0, 5])

    def refused(kind: type[Exception], words: str, *ids: str, last: float = 2, reason: str = "x") -> None:
        with pytest.raises(kind, match=words):
            declare(connection, ids, at(1), at(last), reason, now=at(100))
        assert read_declarations(connection) == []

    refused(NotFound, "symbol 'B' not found; symbols: A", "A_1h", "B")
    refused(NotFound, "entity 'A_4h' not found", "A_4h")
    refused(InvalidTime, "after it ends", "A", last=0)
    refused(InvalidTime, "ends in the future", "A", last=100.1)
    with pytest.raises(InvalidTime, match=r"starts in the future .* end it by now, or with forever"):
        declare(connection, ["A"], at(101), FOREVER, "x", now=at(100))
    refused(UsageError, "the reason is blank", "A", reason=" ")
    refused(UsageError, "give the ids")
    with pytest.raises(UsageError, match="give the ids"):
        withdraw(connection, [], at(1), at(2))


@pytest.mark.parametrize("_", range(8))
def test_holes_and_declarations_equal_a_count_bar_by_bar(connection: Connection, _: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    present = make_market(connection, chance)
    for _ in range(chance.randrange(12)):
        first = at(chance.uniform(-20, 300))
        entity = chance.choice(["*", "*_1h", "A", "A_1h", "A_4h", "B_1h"])
        last = first + chance.choice([0, 1, 30]) * HOUR * chance.random()
        declare(connection, [entity], first, last, chance.choice("xyz"), now=NOW)
    declared = read_declarations(connection)
    for _ in range(12):
        ends = sorted(at(chance.choice([chance.randrange(-20, 300), chance.uniform(-20, 300)])) for _ in range(2))
        start, end = (chance.choice([None, one]) for one in ends)
        now = at(chance.uniform(250, 320))
        found = find_gaps(connection, (), Window(start, end), now=now)
        for one in found.series:
            expected = naive_bars(present[str(one.entity)], TIMEFRAMES[one.entity.timeframe], start, end, now)
            absent = {bar: naive_reason(declared, str(one.entity), bar) for bar in expected[1]}
            assert one.expected == expected[0]
            assert bars_of(one) == absent
            assert one.known_absent == sum(reason is not None for reason in absent.values())
            assert one.missing + one.known_absent == len(absent)
            assert all(
                before.last + TIMEFRAMES[one.entity.timeframe] < after.first or before.reason != after.reason
                for before, after in zip(one.gaps, one.gaps[1:], strict=False)
            ), "gaps are as wide as can be"


def make_market(connection: Connection, chance: random.Random) -> dict[str, list[datetime]]:
    """Write three series with holes; return the open times of each."""
    present = {}
    for series in ("A_1h", "A_4h", "B_1h"):
        kept = chance.random()
        first = chance.randrange(50)
        numbers = [n for n in range(first, first + chance.randrange(1, 60)) if chance.random() < kept] or [first]
        put_bars(connection, series, numbers)
        present[series] = [START + n * TIMEFRAMES[series[2:]] for n in numbers]
    return present


def naive_bars(
    present: list[datetime], span: timedelta, start: datetime | None, end: datetime | None, now: datetime
) -> tuple[int, list[datetime]]:
    """Walk over the bars one by one; return how many there should be, and those that are not there."""
    expected = []
    bar = present[0]
    while bar <= present[-1] or (end is not None and bar + span <= min(end, now)):
        if (start is None or bar >= start) and (end is None or bar <= end):
            expected.append(bar)
        bar += span
    return len(expected), [one for one in expected if one not in present]


def naive_reason(declared: list[Declaration], entity: str, bar: datetime) -> str | None:
    symbol, timeframe = entity.split("_")
    for key in ((symbol, timeframe), (symbol, "*"), ("*", timeframe), ("*", "*")):
        ranges = [one for one in declared if (one.symbol, one.timeframe) == key and one.first <= bar <= one.last]
        if ranges:
            return ranges[0].reason
    return None


def bars_of(series: SeriesGaps) -> dict[datetime, str | None]:
    span = TIMEFRAMES[series.entity.timeframe]
    found = {gap.first + n * span: gap.reason for gap in series.gaps for n in range(gap.bars)}
    assert len(found) == sum(gap.bars for gap in series.gaps)
    assert all(gap.last == gap.first + (gap.bars - 1) * span for gap in series.gaps)
    return found


# --- the command -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Called:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Call = Callable[..., Called]


@pytest.fixture
def call(repo: Repo, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run the command in this process, two days after the first bar, on series A_1h with bars 0, 1, 4, 5 and 8."""
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", repo.url)
    monkeypatch.setenv("FEATURECTL_NOW", "2024-01-03T00:00:00Z")
    with repo.connect() as connection:
        put_bars(connection, "A_1h", [0, 1, 4, 5, 8])

    def call(*words: str | Path) -> Called:
        capfd.readouterr()
        code = run(["-C", str(repo.root), "gaps", *map(str, words)])
        return Called(code, *capfd.readouterr())

    return call


def test_the_command_lists_gaps_in_every_format(call: Call, tmp_path: Path) -> None:
    call("A_1h", "--declare", "2024-01-01T02:00Z", "2024-01-01T02:00Z", "--reason", "outage")
    document = call("--start", "2024-01-01", "--end", "2024-01-01T07:00Z").json
    rows = [
        {"first_missing": "2024-01-01T02:00:00Z", "last_missing": "2024-01-01T02:00:00Z", "bars": 1},
        {"first_missing": "2024-01-01T03:00:00Z", "last_missing": "2024-01-01T03:00:00Z", "bars": 1},
        {"first_missing": "2024-01-01T06:00:00Z", "last_missing": "2024-01-01T07:00:00Z", "bars": 2},
    ]
    reasons = ["outage", None, None]
    assert document == {
        "format_version": 1,
        "command": "gaps",
        "window": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-01T07:00:00Z"},
        "missing": 3,
        "known_absent": 1,
        "gaps": [
            {"entity_id": "A_1h", **row, "known_absent": reason is not None, "reason": reason}
            for row, reason in zip(rows, reasons, strict=True)
        ],
        "series": [
            {
                "entity_id": "A_1h",
                "first_bar": "2024-01-01T00:00:00Z",
                "last_bar": "2024-01-01T08:00:00Z",
                "expected": 8,
                "missing": 3,
                "known_absent": 1,
            }
        ],
    }
    table = call("--format", "table").stdout.splitlines()
    assert table[0].split("  ")[0] == "entity" and "known absent" in table[0]
    assert table[1].split() == ["A_1h", "2024-01-01T02:00:00Z", "2024-01-01T02:00:00Z", "1", "outage"]
    assert table[-1] == "A_1h: 3 of 9 bars missing; 1 more known absent"
    assert call("-o", tmp_path / "gaps.csv").stdout == ""
    assert (tmp_path / "gaps.csv").read_text().splitlines()[:2] == [
        "entity_id,first_missing,last_missing,bars,known_absent,reason",
        "A_1h,2024-01-01T02:00:00Z,2024-01-01T02:00:00Z,1,True,outage",
    ]


def test_nothing_missing_says_so(call: Call, repo: Repo) -> None:
    assert call("--format", "table", "--start", "2024-01-01T04:00Z", "--end", "2024-01-01T05:00Z").stdout == (
        "no bars are missing\n"
    )
    with repo.connect() as connection:
        connection.execute("TRUNCATE market.candles")
    done = call("--format", "table", "--fail-over", "0")
    assert (done.code, done.stdout) == (0, "no bars are missing\n")
    assert "there are no candles" in done.stderr


def test_fail_over_counts_what_is_not_known_absent_and_still_prints(call: Call) -> None:
    assert [call("--fail-over", limit).code for limit in ("3", "4", "5")] == [1, 0, 0]
    done = call("--fail-over", "3")
    assert done.json["missing"] == 4
    assert done.stderr == "warning: 4 bars are missing, more than the 3 of --fail-over\n"
    call("*", "--declare", "2024-01-01T06:00Z", "2024-01-01T07:00Z", "--reason", "outage")
    assert call("--fail-over", "2").code == 0
    assert call("--fail-over", "1").code == 1
    assert call("A", "--end", "now", "--fail-over", "40").code == 1, "39 bars after the last one are missing, too"


def test_long_tables_are_cut_and_files_are_not(call: Call, repo: Repo, tmp_path: Path) -> None:
    with repo.connect() as connection:
        put_bars(connection, "B_1m", range(0, 1000, 2))
    done = call("B_1m", "--format", "table")
    assert len(done.stdout.splitlines()) == 1 + 200 + 2
    assert done.stdout.splitlines()[-2] == "… and 299 more gaps; -o FILE.csv keeps them all"
    assert len(call("B_1m").json["gaps"]) == 499


def test_declaring_listing_and_taking_back(call: Call) -> None:
    times = ("2024-01-01T02:00Z", "2024-01-01T03:00Z")
    done = call("A_1h", "--declare", *times, "--reason", "exchange outage")
    row = {
        "entity_id": "A_1h",
        "first": "2024-01-01T02:00:00Z",
        "last": "2024-01-01T03:00:00Z",
        "reason": "exchange outage",
        "declared_at": "2024-01-03T00:00:00Z",
    }
    assert (done.code, done.stderr) == (0, "2 bars are missing in this range, known absent now\n")
    assert done.json == {"format_version": 1, "command": "gaps", "declared": [row], "known_absent": 2}
    assert call("--declared").json["declared"] == [row]
    assert call("B", "--declared", "--format", "table").stdout == "no bars are declared known absent\n"
    assert call("A_1h", "--withdraw", *times).json["withdrawn"] == [row]
    again = call("A_1h", "--withdraw", *times)
    assert again.code == 2 and "not found; declarations: none" in again.stderr


def test_a_symbol_that_is_traded_no_more_is_absent_forever(call: Call) -> None:
    done = call("A", "--declare", "2024-01-01T05:00Z", "forever", "--reason", "delisted")
    (row,) = done.json["declared"]
    assert (row["entity_id"], row["first"], row["last"]) == ("A", "2024-01-01T05:00:00Z", None)
    assert re.search(r"A +2024-01-01T05:00:00Z +forever +delisted", call("--declared", "--format", "table").stdout)
    assert call("A", "--end", "now").json["missing"] == call("A", "--end", "2024-01-01T05:00Z").json["missing"]
    refused = call("A", "--withdraw", "2024-01-01T04:00Z", "forever")
    assert refused.code == 2
    assert "'A 2024-01-01T04:00:00Z .. forever' not found; declarations: A 2024-01-01T05:00:00Z .. forever" in (
        refused.stderr
    )
    assert call("A", "--withdraw", "2024-01-01T05:00Z", "forever").json["withdrawn"] == [row]


@pytest.mark.parametrize(
    "words",
    [
        ("--declare", "-47h", "-46h"),
        ("--declare", "now-47h", "-46h"),
        ("--declare=-47h", "-46h"),
        ("--declare", "2024-01-01T01:00Z", "-46h"),
        ("--declare", "-47h", "2024-01-01T02:00+00:00"),
    ],
    ids=" ".join,
)
def test_times_to_declare_may_be_relative(call: Call, words: tuple[str, ...]) -> None:
    (found,) = call("A_1h", *words, "--reason", "x").json["declared"]
    assert (found["first"], found["last"]) == ("2024-01-01T01:00:00Z", "2024-01-01T02:00:00Z")
    assert call("--start", "-47h", "--end", "-46h", "A_1h").json["known_absent"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("C",), "symbol 'C' not found; symbols: A; "),
        (("A_4h",), "entity 'A_4h' not found; entities: A_1h; "),
        (("--start", "now", "--end", "-1d"), "after it ends"),
        (("--start", "yesterday"), "'yesterday' is not a time"),
        (("--fail-over", "-1"), "--fail-over"),
        (("A", "--declare", "-2d", "-1d"), "--declare needs a --reason"),
        (("A", "--declare", "-2d", "--reason", "x"), "'--reason' is not a time"),
        (("A", "--declare", "-1d"), "--declare' requires 2 arguments"),
        (("--declare", "-2d", "-1d", "--reason", "x"), "give the ids"),
        (("A", "--declare", "-1d", "-2d", "--reason", "x"), "after it ends"),
        (("A", "--declare", "-1d", "+1d", "--reason", "x"), "ends in the future"),
        (("A", "--declare", "-2d", "-1d", "--reason", " "), "the reason is blank"),
        (("A", "--declare", "-2d", "-1d", "--reason", "x", "--start", "-3d"), "--start belongs to looking for gaps"),
        (("A", "--withdraw", "-2d", "-1d", "--reason", "x"), "--reason belongs to --declare"),
        (("A", "--withdraw", "-2d", "-1d", "--declared"), "--withdraw and --declared contradict"),
        (("A", "--withdraw", "-2d", "-1d"), "not found; declarations: none"),
        (("A", "--declared", "--fail-over", "1"), "--fail-over belongs to looking for gaps"),
    ],
)
def test_bad_input_is_refused_in_one_line(call: Call, words: tuple[str, ...], message: str) -> None:
    done = call(*words)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_only_a_database_of_this_version_is_written_to(call: Call, repo: Repo) -> None:
    with repo.connect() as connection:
        connection.execute("DELETE FROM featurectl.migrations WHERE version = 5")
        with pytest.raises(SchemaMissing):
            schema.require_known(connection)
    done = call("A", "--declare", "-2d", "-1d", "--reason", "x")
    assert done.code == 2 and "run `featurectl apply`" in done.stderr
    assert call("A").code == 0, "reading goes on"


def test_looking_needs_no_right_to_write(repo: Repo) -> None:
    with repo.connect() as connection:
        put_bars(connection, "A_1h", [0, 2])
    with repo.database.connect(read_only=True) as reader:
        assert find_gaps(reader, ["A"], ALWAYS, now=NOW).missing == 1
        assert read_declarations(reader, ["A"]) == []


def test_the_console_script_knows_the_command(repo: Repo) -> None:
    now = datetime.now(UTC).isoformat()
    done = repo.run("gaps", "--format", "table", env={"FEATURECTL_NOW": now})
    assert (done.returncode, done.stdout) == (0, "no bars are missing\n")
