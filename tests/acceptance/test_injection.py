"""SQL in the names that configuration and files give: it is data, or refused in one line, and never executed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from featurectl.cli.app import COMMANDS, run
from featurectl.core.config import Overrides, load_config
from featurectl.core.repository import Profile, make_repository
from featurectl.core.retrieval import Strategy
from featurectl.errors import ConfigError
from tests.fix_repository import Repo
from tests.integration.test_first_path import candles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")

# One name that ends every kind of quotes, and means something to each of the templates it may come through.
DROP = "DROP TABLE market.candles; --"
HOSTILE = f"x'; {DROP}"
NAMES = {
    "single quote": HOSTILE,
    "double quote": f'x"; {DROP}',
    "dollar quote": f"x$$; {DROP} $body$",
    "backslash": f"x\\'; {DROP}",
    "placeholders": "%s %(name)s %% {} {name} $1 :name ?",
    "comment": "x /* y */ -- z",
}
AS_OF = "2024-01-03T12:10:00Z"
TABLES = ("market.candles", "market.order_book", "market.trades", "market.signals", "features.technical_indicators")


@dataclass(frozen=True)
class Shop:
    """A repository, and the command line in this process."""

    repo: Repo
    capfd: pytest.CaptureFixture[str]

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        self.capfd.readouterr()
        code = run(["-C", str(self.repo.root), *map(str, words)])
        return code, *self.capfd.readouterr()

    def json(self, *words: str | Path) -> Any:
        code, out, err = self.run(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def refused(self, *words: str | Path) -> str:
        """Run what must be refused, in one line; return that."""
        code, out, err = self.run(*words)
        assert (code, out) == (2, ""), err
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        return line


@pytest.fixture
def shop(repo: Repo, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A repository with nothing in it; at the end every table must still be there."""
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", repo.url)
    monkeypatch.setenv("FEATURECTL_NOW", AS_OF)
    yield Shop(repo, capfd)
    for table in TABLES:
        assert repo.rows("SELECT to_regclass(%s) IS NOT NULL", table) == [(True,)], table


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


# --- configuration ---------------------------------------------------------------------------------------------------


def edit(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "feature_store.yaml"
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))


def test_a_schema_of_any_name_is_that_schema(
    clone: Callable[[str | None], str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = """o"n'; DROP SCHEMA market CASCADE; -- %s {} $$"""
    root = make_repository(tmp_path / "market", Profile.EMBEDDED, project="market").root
    edit(root, lambda document: document["online_store"].update(db_schema=name))
    shop = Shop(Repo(root, clone(None)), capfd)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", shop.repo.url)
    monkeypatch.setenv("FEATURECTL_NOW", AS_OF)
    (tmp_path / "BTCUSDT_1h.csv").write_bytes(candles())
    for words in (["apply"], ["ingest", "candles", tmp_path / "BTCUSDT_1h.csv"], ["compute"], ["materialize"]):
        shop.json(*words)
    (result,) = shop.json("get-online", "BTCUSDT_1h", "-f", "rsi_14")["results"]
    assert result["views"]["technical_indicators_view"]["source"] == "online"
    assert result["statuses"] == {"rsi_14": "PRESENT"}
    assert shop.json("doctor")["healthy"]
    assert shop.json("storage", f"{name}.market__technical_indicators_view")["tables"][0]["rows"] == 1
    schemas = {schema for (schema,) in shop.repo.rows("SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_'")}
    assert schemas - {"information_schema", "public", "_timescaledb_internal"} >= {name, "market", "features", "feast"}
    assert shop.repo.rows("SELECT count(*) FROM market.candles") == [(60,)]


@pytest.mark.parametrize("name", ["", "a.b", "x" * 64, "ä" * 32, "a\nb", "a\x00b", 5, None, ["online"]], ids=repr)
def test_a_name_that_no_schema_has_is_refused(shop: Shop, name: Any) -> None:
    edit(shop.repo.root, lambda document: document["online_store"].update(db_schema=name))
    line = shop.refused("views")
    assert f"online_store.db_schema is {name!r}; write a schema's name of at most 63 bytes" in line


def test_feast_alone_refuses_it_too() -> None:
    from featurectl.plugin.online import TimescaleOnlineStoreConfig

    with pytest.raises(ConfigError, match=r"db_schema: .*'a\.b' is none; write a schema's name"):
        TimescaleOnlineStoreConfig(url="postgresql://u@h/d", db_schema="a.b")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_tables_and_durations_of_the_storage_section_are_refused(shop: Shop, name: str) -> None:
    for storage, said in (
        ({name: {"drop_after": "90d"}}, "which is no time table; tables: market.candles"),
        ({f"market.candles; {name}": {}}, "which is no time table"),
        ({"market.candles": {"drop_after": name}}, "write a duration such as"),
        ({"market.candles": {name: "90d"}}, "has no setting"),
        ({"market.candles": {"chunk_interval": f"1d'; {name}"}}, "write a duration such as"),
    ):
        edit(shop.repo.root, lambda document, storage=storage: document["featurectl"].update(storage=storage))
        assert said in shop.refused("storage")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_other_settings_are_refused(shop: Shop, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("connect_timeout", "statement_timeout", "warmup_bars"):
        with monkeypatch.context() as context:
            before = (shop.repo.root / "feature_store.yaml").read_text()
            edit(
                shop.repo.root, lambda document, setting=setting: document["featurectl"].update({setting: f"1; {name}"})
            )
            assert f"featurectl{'.' * (setting == 'warmup_bars')}" in shop.refused("views")
            (shop.repo.root / "feature_store.yaml").write_text(before)
            context.setenv("FEATURECTL_STATEMENT_TIMEOUT", f"30'; {name}")
            assert "is not a number of seconds" in shop.refused("views")
    edit(shop.repo.root, lambda document: document.update(project=f"p{name}"))
    assert "project must be letters, digits and underscores" in shop.refused("views")


def test_the_registrys_schema_is_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_repository(tmp_path / "market", Profile.EMBEDDED).root
    options = f'-c search_path=feast"; {DROP}'

    def change(document: dict[str, Any]) -> None:
        document["registry"]["sqlalchemy_config_kwargs"]["connect_args"]["options"] = options

    edit(root, change)
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", "postgresql://u@h/d")
    assert load_config(Overrides(repo=root)).registry_schema == "feast"


# --- files -----------------------------------------------------------------------------------------------------------


def stored(shop: Shop, column: str, table: str) -> set[str]:
    return {value for (value,) in shop.repo.rows(f"SELECT DISTINCT {column} FROM {table}")}


def squeezed(name: str) -> str:
    """A symbol as it is written: without spaces, slashes and hyphens, in capitals."""
    return "".join(name.split()).replace("-", "").replace("/", "").upper()


def test_symbols_and_trade_ids_of_ticks_are_data(shop: Shop, tmp_path: Path) -> None:
    names = list(NAMES.values())
    trades = ["symbol,id,time,price,size,side"]
    books = ["symbol,time,bid,bid_size,ask,ask_size"]
    for second, name in enumerate(names):
        time = f"2024-01-03T12:00:{second:02}Z"
        trades.append(f"{quoted(name)},{quoted(f'id {name}')},{time},1,1,buy")
        books.append(f"{quoted(name)},{time},1,1,2,1")
    (tmp_path / "trades.csv").write_text("\n".join(trades))
    (tmp_path / "books.csv").write_text("\n".join(books))
    for _ in range(2):
        shop.json("ingest", "trades", tmp_path / "trades.csv")
        shop.json("ingest", "order-book", tmp_path / "books.csv")
    symbols = {squeezed(name) for name in names}
    assert stored(shop, "symbol", "market.trades") == stored(shop, "symbol", "market.order_book") == symbols
    assert stored(shop, "trade_id", "market.trades") == {f"id {name}" for name in names}
    done = shop.json("compute", "--timeframe", "1m")
    assert sum(series["inserted"] for series in done["series"]) == len(symbols), done
    assert shop.repo.rows("SELECT count(DISTINCT symbol) FROM features.market_features") == [(len(symbols),)]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_side_of_a_trade_is_one_of_two(shop: Shop, tmp_path: Path, name: str) -> None:
    path = tmp_path / "trades.csv"
    rows = [f"{index},2024-01-03T12:00:0{index}Z,1,1,{side}" for index, side in enumerate(["buy", quoted(name)])]
    path.write_text("\n".join(["id,time,price,size,side", *rows]))
    code, _, err = shop.run("ingest", "trades", path, "--symbol", "BTCUSDT")
    assert code == 0, err
    assert "rejected 1 row" in err
    assert shop.repo.rows("SELECT side FROM market.trades") == [("buy",)]


def test_names_of_signals_are_data_or_rejected(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    rows = [f"2024-01-03T12:00:00Z,{quoted(name)},{quoted(name)},1" for name in NAMES.values()]
    path.write_text("\n".join(["time,symbol,name,score", *rows, "2024-01-03T12:00:00Z,OK,news_sentiment,1"]))
    code, _, err = shop.run("ingest", "signals", path)
    assert code == 0, err
    names = stored(shop, "name", "market.signals")
    assert "news_sentiment" in names
    assert len(stored(shop, "symbol", "market.signals")) == len(names)
    if len(names) == 1:
        assert f"rejected {len(NAMES)} rows" in err


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_of_a_signal_given_with_the_command_is_data_or_refused(shop: Shop, tmp_path: Path, name: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("time,score\n2024-01-03T12:00:00Z,1\n")
    code, _, err = shop.run("ingest", "signals", path, "--name", name)
    assert (code, "error: " in err) in ((0, False), (2, True)), err
    assert len(stored(shop, "name", "market.signals")) == (code == 0)


FILES = {
    "SQL": (f"{HOSTILE}_1h.csv", None),
    "SQL after a symbol": (f"BTCUSDT_1h'; {DROP}.csv", "BTCUSDT"),
    "placeholders": ("BTCUSDT_%s%(name)s{}_1h.csv", None),
    "shell": ("BTCUSDT_1h_$(touch pwned)`touch pwned`.csv", "BTCUSDT"),
    "line break": ("BTCUSDT_1h_\nerror: none.csv", "BTCUSDT"),
    "secret": ('BTCUSDT_1h_password: "x" \'y.csv', "BTCUSDT"),
}


@pytest.mark.parametrize(("name", "symbol"), FILES.values(), ids=FILES)
def test_the_name_of_a_file_is_a_name(shop: Shop, tmp_path: Path, name: str, symbol: str | None) -> None:
    path = tmp_path / name
    path.write_bytes(candles())
    rejects, report = tmp_path / f"rejects {name}", tmp_path / f"report {name}"
    if symbol is None:
        assert "the file name does not say; give --symbol" in shop.refused("ingest", "candles", path)
    given = ["--symbol", symbol or "BTCUSDT", "--timeframe", "1h"]
    code, _, err = shop.run("ingest", "candles", path, *given, "--rejects", rejects, "-o", report)
    assert code == 0, err
    assert not any(line.startswith("error: ") for line in err.splitlines())
    assert stored(shop, "symbol", "market.candles") == {symbol or "BTCUSDT"}
    assert shop.repo.rows("SELECT count(*) FROM market.candles") == [(60,)]
    assert report.exists()
    assert not list(tmp_path.rglob("pwned"))
    assert not list(shop.repo.root.rglob("pwned"))
    if "runs" in COMMANDS:
        # Whatever the ledger keeps of it can be read, and says how the run ended.
        assert shop.repo.rows("SELECT verdict FROM featurectl.runs WHERE verdict <> 'failed'") == [("done",)]


@pytest.mark.parametrize("strategy", [Strategy.SERVER, Strategy.LOCAL])
def test_columns_and_values_of_a_spine_are_data(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: Strategy
) -> None:
    (tmp_path / "BTCUSDT_1h.csv").write_bytes(candles())
    shop.json("ingest", "candles", tmp_path / "BTCUSDT_1h.csv")
    shop.json("compute")
    extra = {name: [f"{name} {row}" for row in range(2)] for name in NAMES.values()}
    events = ["2024-01-03T12:00:00Z", "2024-01-02T12:00:00Z"]
    spine = pa.table({"entity_id": ["BTCUSDT_1h"] * 2, "event_timestamp": events, **extra})
    pq.write_table(spine, tmp_path / "spine.parquet")
    monkeypatch.setattr("featurectl.core.retrieval.PointInTime._strategy", lambda *_: strategy)
    code, _, err = shop.run(
        "get-offline", "--spine", tmp_path / "spine.parquet", "-f", "rsi_14", "-o", tmp_path / "t.parquet"
    )
    assert code == 0, err
    found = pq.read_table(tmp_path / "t.parquet")
    for name, values in extra.items():
        assert found.column(name).to_pylist() == values
    assert found.column("rsi_14").null_count == 0


# --- the command line: what test_bad_input does not try --------------------------------------------------------------


WORDS: dict[str, tuple[str, ...]] = {
    "a table": ("storage", "NAME"),
    "a service": ("services", "NAME"),
    "an entity": ("entities", "NAME"),
    "a view to materialize": ("materialize", "--view", "NAME"),
    "a timeframe to compute": ("compute", "--timeframe", "NAME"),
    "a feature to compute": ("compute", "--feature", "NAME"),
    "a service online": ("get-online", "BTCUSDT_1h", "--service", "NAME"),
    "a target": ("get-offline", "BTCUSDT_1h", "--start", "-1d", "--end", "now", "--target", "forward_return:NAME"),
    "an instant": ("get-online", "BTCUSDT_1h", "--as-of", "NAME"),
    "a window": ("materialize", "NAME", "now"),
    "an age": ("get-online", "BTCUSDT_1h", "--max-age", "NAME"),
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_on_the_command_line_are_refused(shop: Shop, words: tuple[str, ...], name: str) -> None:
    assert shop.refused(*(word.replace("NAME", name) for word in words))


def test_a_database_of_any_name_is_that_database(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    url = shop.repo.url.replace(shop.repo.url.rpartition("/")[2].partition("?")[0], quote(f'no"{HOSTILE}', safe=""))
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", url)
    code, out, err = shop.run("views")
    assert (code, out) == (3, ""), err
    assert "does not exist; create it" in err
