"""Bad input, tried on the real command line: exit code as documented, one line that helps, nothing half-written."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.core import embedded
from featurectl.core.db import open_connection
from featurectl.core.repository import Profile, make_repository
from featurectl.errors import DefinitionError
from featurectl.plugin import apply as steps
from tests.fix_database import create_database, drop_database, with_database
from tests.fix_repository import SCRIPT, Repo
from tests.integration.test_first_path import candles

SECRET = "s3cretOfTheTest"
VIEW = "technical_indicators_view"
ONLINE = f"online.market__{VIEW}"
TABLES = (
    "market.candles",
    "features.technical_indicators",
    ONLINE,
    "featurectl.catalogs",
    "featurectl.materializations",
)
NOBODY = f"postgresql://user:{SECRET}@127.0.0.1:1/db"
WINDOW = ("--start", "2024-01-01", "--end", "2024-01-05")
OFFLINE = ("get-offline", "BTCUSDT_1h", *WINDOW)
INGEST = ("ingest", "candles")
INJECTION = "x'; DROP TABLE market.candles; --"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")


# --- what every failure promises -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repo]:
    """A repository with sixty bars, computed and online; commands that fail leave it as it is, so all can share it."""
    root, template = applied_repository
    name = f"featurectl_test_{uuid.uuid4().hex[:12]}"
    repo = Repo(tmp_path_factory.mktemp("bad") / "market", create_database(server, name, template))
    shutil.copytree(root, repo.root)
    fill(repo)
    yield repo
    drop_database(server, name)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for output, with a file from before and a folder whose name is a file's."""
    folder = tmp_path / "out"
    (folder / "folder.csv").mkdir(parents=True)
    (folder / "kept.csv").write_text("from before\n")
    return folder


def fill(repo: Repo) -> None:
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    repo.ok("compute")
    repo.ok("materialize")


def tree(root: Path) -> dict[str, bytes | None]:
    """Return every file below ``root`` with its content, hidden ones included."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if path.suffix != ".pyc" and path.name != "__pycache__"
    }


def state(repo: Repo) -> dict[str, Any]:
    """Return all that a command could have changed: rows, relations, the repository's files."""
    found: dict[str, Any] = {"files": tree(repo.root)}
    with repo.connect() as connection:
        for table in TABLES:
            statement = sql.SQL("SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM {} AS t")
            found[table] = connection.execute(statement.format(sql.Identifier(*table.split(".")))).fetchone()
        statement = sql.SQL("SELECT array_agg(oid::regclass::text ORDER BY oid) FROM pg_class WHERE relname !~ '^pg_'")
        found["relations"] = connection.execute(statement).fetchone()
    return found


def check(done: subprocess.CompletedProcess[str], code: int, message: str) -> str:
    """Check the exit code, that one line on stderr helps, and that stdout is empty; return that line."""
    shown = f"{done.args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == code, shown
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, shown
    assert message in errors[0], shown
    assert "Traceback" not in done.stderr, shown
    assert "internal error" not in done.stderr, shown
    assert SECRET not in done.stdout + done.stderr, shown
    assert code == 5 or done.stdout == "", shown
    return errors[0]


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A command line that must fail. In its words, FILES is the folder of bad files and OUT the folder for output."""

    words: tuple[str, ...]
    code: int
    message: str
    env: Mapping[str, str] = field(default_factory=dict)
    input: bytes = b""


def case(
    name: str, *words: str, says: str, code: int = 2, env: Mapping[str, str] | None = None, input: bytes = b""
) -> Any:
    return pytest.param(Case(words, code, says, env or {}, input), id=name)


NAMES = [
    case("unknown command", "get-onlin", says="No such command 'get-onlin'"),
    case("unknown option", "get-online", "BTCUSDT_1h", "--fast", says="No such option: --fast"),
    case("unknown ingest kind", "ingest", "tickers", says="No such command 'tickers'"),
    case("no id", "get-online", says="Missing argument 'ID...'"),
    case("one argument too many", "services", "a", "b", says="unexpected extra argument(s) (b)"),
    case("unknown feature", "get-online", "BTCUSDT_1h", "-f", "rsi_15", says="feature 'rsi_15' not found; features: a"),
    case("unknown view of a feature", "get-online", "BTCUSDT_1h", "-f", "v:rsi_14", says="view 'v' not found; views:"),
    case("unknown feature of a view", "get-online", "BTCUSDT_1h", "-f", f"{VIEW}:x", says="feature 'x' not found"),
    case("unknown service", "get-online", "BTCUSDT_1h", "--service", "s", says="service 's' not found; services: comp"),
    case("unknown service to show", "services", "s", says="service 's' not found"),
    case("unknown view to show", "views", "v", says="view 'v' not found; views: comprehensive_features_view, market"),
    case("unknown entity to show", "entities", "e", says="entity 'e' not found; entities: symbol, timeframe"),
    case("unknown view to materialize", "materialize", "--view", "v", says="view 'v' not found"),
    case("unknown symbol to compute", "compute", "--symbol", "NOPE", says="symbol 'NOPE' not found; symbols: BTCUSDT"),
    case("unknown timeframe to compute", "compute", "--timeframe", "4h", says="timeframe '4h' not found; timeframes:"),
    case("unknown offline feature", *OFFLINE, "-f", "rsi_15", says="feature 'rsi_15' not found"),
    case("id without timeframe", "get-online", "BTCUSDT", says="'BTCUSDT' is not an entity id; write <SYMBOL>_<timefr"),
    case("id without symbol", "get-online", "_1h", says="'_1h' is not an entity id"),
    case("id with unknown timeframe", "get-online", "BTCUSDT_7m", says="timeframe '7m' does not exist; did you mean"),
    case("id in capitals", "get-online", "BTCUSDT_1H", says="did you mean BTCUSDT_1h?"),
    case("id with a space", "get-online", "BTC USDT_1h", says="'BTC USDT_1h' is not an entity id"),
    case("id with a newline", "get-online", "BTC\nUSDT_1h", says=r"'BTC\nUSDT_1h' is not an entity id"),
    case("id that is not UTF-8", "get-online", "BTC\udcffUSDT_1h", says="is not an entity id"),
    case("id with SQL", "get-online", f"{INJECTION}_1h", says="is not an entity id; write <SYMBOL>_<timeframe>"),
    case("feature with SQL", "get-online", "BTCUSDT_1h", "-f", f'rsi_14"; {INJECTION}', says="DROP TABLE market.candl"),
    case("view with SQL", "views", INJECTION, says=f"view '{INJECTION}' not found"),
    case("symbol with SQL", "compute", "--symbol", INJECTION, says=f"symbol '{INJECTION}' not found; symbols: BTCUSDT"),
    case("feature with percent signs", "get-online", "BTCUSDT_1h", "-f", "%s%(a)s", says="feature '%s%(a)s' not found"),
    case("feature of 9,000 characters", "get-online", "BTCUSDT_1h", "-f", "a" * 9000, says="not found; features: atr,"),
    case("offline id malformed", "get-offline", "BTCUSDT", *WINDOW, says="'BTCUSDT' is not an entity id"),
]

WORDS = [
    case("features and a service", "get-online", "BTCUSDT_1h", "-f", "rsi_14", "--service", "s", says="not both"),
    case("two formats", "views", "--json", "--format", "csv", says="--json and --format csv contradict each other"),
    case("unknown format", "views", "--format", "xml", says="'xml' is not one of 'table', 'json', 'csv', 'parquet'"),
    case("unknown format by environment", "views", env={"FEATURECTL_FORMAT": "xml"}, says="FEATURECTL_FORMAT='xml'; f"),
    case("nothing to build from", "get-offline", says="give entity ids with --start and --end, or --spine FILE"),
    case("no past there", *OFFLINE, "--backend", "online", says="an online store holds no past; take backend 'auto'"),
    case("unknown backend", *OFFLINE, "--backend", "redis", says="'redis' is not one of 'auto', 'online', 'feast'"),
    case("ids without a window", "get-offline", "BTCUSDT_1h", says="give --start and --end"),
    case("a spine and a window", *OFFLINE, "--spine", "FILES/BTCUSDT_1h.csv", says="leave out ids, --start and --end"),
    case("incremental with a window", "materialize", "--incremental", "-2d", "-1d", says="--incremental takes no wind"),
    case("a start without an end", "materialize", "2024-01-01", says="and no END; add one, for example now"),
    case("future end", "materialize", "2024-01-01", "2999-01-01", says="the window ends in the future: 2999-01-01"),
    case("relative future end", "materialize", "2024-01-01", "+1d", says="the window ends in the future"),
    case("reversed window", "materialize", "-1d", "-2d", says="after it ends"),
    case("reversed compute window", "compute", "--start", "now", "--end", "-1d", says="swap them"),
    case("reversed offline window", "get-offline", "BTCUSDT_1h", "--start", "now", "--end", "-1d", says="swap them"),
    case("time in words", "get-online", "BTCUSDT_1h", "--as-of", "yesterday", says="'yesterday' is not a time; write"),
    case("time with month 13", "compute", "--start", "2024-13-01", says="'2024-13-01' is not a time"),
    case("time before the year 1", "compute", "--start", "-99999999999w", says="is not a time; write ISO 8601"),
    case("time without unit", "materialize", "+5", "now", says="'+5' is not a time"),
    case("age below 0", "get-online", "BTCUSDT_1h", "--max-age", "-5m", says="error: '-5m' is not a duration; write a"),
    case("clock in words", "compute", env={"FEATURECTL_NOW": "noon"}, says="FEATURECTL_NOW='noon' is not an ISO 8601"),
    case("empty id", "get-online", "", says="the argument after get-online is empty; give it a value"),
    case("empty time", "get-online", "BTCUSDT_1h", "--as-of", "", says="the argument after --as-of is empty"),
    case("empty feature", "get-online", "BTCUSDT_1h", "-f", "", says="the argument after -f is empty"),
    case("empty window", "materialize", "", "", says="the argument after materialize is empty"),
    case("empty symbol", "compute", "--symbol=", says="--symbol= is empty; give it a value"),
    case("only a comma", "get-online", "BTCUSDT_1h", "-f", ",", says="',' holds no name; write names with commas"),
    case("time-out below 0", "views", "--timeout", "-1", says="--timeout: '-1.0' is not a number of seconds"),
    case("time-out that is no number", "views", "--timeout", "nan", says="--timeout: 'nan' is not a number of seconds"),
    case("time-out in words", "views", "--timeout", "soon", says="Invalid value for '--timeout': 'soon'"),
]

INPUT_FILES = [
    case("missing file", *INGEST, "FILES/none_1h.csv", says="none_1h.csv: no such file; check the path"),
    case("empty file", *INGEST, "FILES/empty_1h.csv", says="empty_1h.csv: is empty; give CSV"),
    case("binary file", *INGEST, "FILES/binary_1h.csv", says="is neither CSV nor Parquet (binary data)"),
    case("folder for a file", *INGEST, "FILES/folder.csv", says="folder.csv: is a directory; name the files in it"),
    case("unreadable file", *INGEST, "/proc/self/mem", says="/proc/self/mem: can't be read: Input/output error"),
    case("gzip cut short", *INGEST, "FILES/BTCUSDT_1h.csv.gz", says="the gzip data is cut short; download it again"),
    case("gzip damaged", *INGEST, "FILES/damaged_1h.csv.gz", says="the gzip data is damaged"),
    case("Parquet damaged", *INGEST, "FILES/damaged_1h.parquet", says="the Parquet data is damaged"),
    case("only a header", *INGEST, "FILES/BTCUSDT_header_1h.csv", says="has a header but no rows"),
    case("unknown layout", *INGEST, "FILES/unknown_1h.csv", says="columns not recognized: when, bid, ask; needed: a t"),
    case("no header", *INGEST, "FILES/headless_1h.csv", says="has no header row, and 5 columns instead of Binance's 1"),
    case("wrong timeframe in the name", *INGEST, "FILES/BTCUSDT_4h.csv", says="rows are 1h apart, not 4h; give --time"),
    case("month in the name", *INGEST, "FILES/BTCUSDT_1M.csv", says="timeframe '1M' does not exist (M is month"),
    case("no symbol anywhere", *INGEST, "FILES/prices.csv", says="the file name does not say; give --symbol"),
    case("symbol against column", *INGEST, "FILES/ETHUSDT_1h.csv", "--symbol", "BTCUSDT", says="'symbol' says ETHUSDT"),
    case("timeframe against rows", *INGEST, "FILES/BTCUSDT_1h.csv", "--timeframe", "1d", says="rows are 1h apart, not"),
    case("unknown timeframe given", *INGEST, "FILES/BTCUSDT_1h.csv", "--timeframe", "7m", says="'7m' does not exist"),
    case("symbol without letters", *INGEST, "FILES/BTCUSDT_1h.csv", "--symbol", "/", says="symbol '/' is not a symbol"),
    case("symbol of 3,000 characters", *INGEST, "FILES/BTCUSDT_1h.csv", "--symbol", "S" * 3000, says="is not a symbol"),
    case("no usable row", *INGEST, "FILES/SOLUSDT_1h.csv", says="not one of its rows could be used; --rejects"),
    case("closed before when", *INGEST, "FILES/BTCUSDT_1h.csv", "--closed-before", "noon", says="'noon' is not a time"),
    case("nothing on stdin", *INGEST, "-", "--symbol", "A", "--timeframe", "1h", says="-: is empty"),
    case("two files, none good", *INGEST, "FILES/none.csv", "FILES/empty_1h.csv", says="0 of 2 files read"),
    case("missing spine", "get-offline", "--spine", "FILES/none.csv", says="none.csv can't be read: No such file"),
    case("empty spine", "get-offline", "--spine", "FILES/empty_1h.csv", says="empty_1h.csv is empty; a spine needs"),
    case("folder for a spine", "get-offline", "--spine", "FILES/folder.csv", says="can't be read: Is a directory"),
    case("damaged spine", "get-offline", "--spine", "FILES/damaged_1h.parquet", says="is neither CSV nor Parquet"),
    case("spine with a bad id", "get-offline", "--spine", "FILES/spine_id.csv", says="'BTCUSDT' is not an entity id"),
    case(
        "spine with another symbol",
        "get-offline",
        "--spine",
        "FILES/spine_names.csv",
        says="spine_names.csv: symbol 'ETHUSDT' in row 2 is not that of entity_id 'BTCUSDT_1h'; rename or drop column",
    ),
    case("spine with a bad time", "get-offline", "--spine", "FILES/spine_time.csv", says="'yesterday' in row 1"),
    case("spine without times", "get-offline", "--spine", "FILES/spine_columns.csv", says="has no event_timestamp col"),
    case("spine without ids", "get-offline", "--spine", "FILES/spine_keys.csv", says="has neither entity_id nor symbo"),
    case("spine with a feature", "get-offline", "--spine", "FILES/spine_feature.csv", says="column 'rsi_14', which is"),
    case("spine with SQL", "get-offline", "--spine", "FILES/spine_injection.csv", says="is not an entity id"),
]

OUTPUT_FILES = [
    case("unknown suffix", "views", "-o", "OUT/x.xyz", says="x.xyz: the suffix names no format; write .json, .csv"),
    case("output in no folder", "views", "-o", "OUT/none/x.csv", says="x.csv can't be written: No such file or direct"),
    case("output is a folder", "views", "-o", "OUT/folder.csv", says="folder.csv is a directory; name a file in it"),
    case("output below a file", "views", "-o", "OUT/kept.csv/x.csv", says="x.csv can't be written: Not a directory"),
    case("output in a read-only tree", "views", "-o", "/proc/x.csv", says="/proc/x.csv can't be written"),
    case("output with a long name", "views", "-o", f"OUT/{'x' * 300}.csv", says="can't be written: File name too long"),
    case("failure keeps the output of before", *OFFLINE, "-f", "x", "-o", "OUT/kept.csv", says="feature 'x' not found"),
    case("offline output is a folder", *OFFLINE, "-o", "OUT/folder.csv", says="folder.csv is a directory"),
    case("materialize to no folder", "materialize", "-o", "OUT/none/x.csv", says="x.csv can't be written"),
    case("compute to an unknown suffix", "compute", "--full", "-o", "OUT/x.xyz", says="the suffix names no format"),
    case("apply to an unknown suffix", "apply", "-o", "OUT/x.xyz", says="the suffix names no format"),
    case("ingest to no folder", *INGEST, "-", "-o", "OUT/none/x.json", input=candles(90), says="x.json can't be writt"),
    case(
        "rejects in no folder",
        *INGEST,
        "-",
        "--rejects",
        "OUT/none/r.csv",
        input=candles(90),
        says="r.csv can't be wri",
    ),
    case("rejects is a folder", *INGEST, "-", "--rejects", "OUT/folder.csv", input=candles(90), says="is a directory"),
    case("rejects over the report", *INGEST, "-", "--rejects", "OUT/x.csv", "-o", "OUT/x.csv", says="both name"),
]

PLACES = [
    case("no repository there", "views", "-C", "OUT", says="out holds no feature_store.yaml; run `featurectl init"),
    case("no repository by its file", "views", "-C", "OUT/feature_store.yaml", says="out holds no feature_store.yaml"),
    case("no repository before the command", "-C", "OUT", "views", says="out holds no feature_store.yaml"),
    case("no repository by environment", "views", env={"FEATURECTL_REPO": "/none"}, says="/none holds no feature_stor"),
    case("URL of another kind", "views", "--database-url", f"mysql://u:{SECRET}@h/d", says="'mysql://u:***@h/d' is no"),
    case("URL without a scheme", "views", "--database-url", f"u:{SECRET}@h/d", says="the database URL is not a Postgr"),
    case("URL that is a DSN", "views", "--database-url", f"host=h password={SECRET}", says="is not a PostgreSQL URL"),
    case("URL with a bad port", "views", "--database-url", f"postgresql://u:{SECRET}@h:no/d", says="port 'no'; write"),
    case("URL with a high port", "views", "--database-url", f"postgresql://u:{SECRET}@h:99999/d", says="port '99999'"),
    case("URL with a bare @", "views", "--database-url", f"postgresql://u:a@{SECRET}@h/d", says="@ is %40, / is %2F"),
    case("URL with a bare /", "views", "--database-url", f"postgresql://u:a/{SECRET}@h/d", says="@ is %40, / is %2F"),
    case("URL with a bare %", "views", "--database-url", f"postgresql://u:%zz{SECRET}@h/d", says="can't be read: inva"),
    case("URL with a space", "views", "--database-url", f"postgresql://u:a {SECRET}@h/d", says="the database URL can'"),
    case("URL with a strange option", "views", "--database-url", f"{NOBODY}?x=1", says="invalid URI query parameter:"),
    case(
        "unknown host",
        "views",
        "--database-url",
        f"postgresql://u:{SECRET}@h.invalid/d",
        code=3,
        says="on h.invalid:543",
    ),
    case("nobody listens", "views", "--database-url", NOBODY, code=3, says="database 'db' on 127.0.0.1:1: connection"),
    case("shell with a bad URL", "db", "shell", "--database-url", "postgresql://u:%zz@h/d", says="the database URL ca"),
    case("start a server by URL", "db", "start", says="this repository uses a server by URL"),
    case("connect time-out in words", "views", env={"FEATURECTL_CONNECT_TIMEOUT": "soon"}, says="'soon' is not a numb"),
    case("statement time-out", "views", env={"FEATURECTL_STATEMENT_TIMEOUT": "-1"}, says="FEATURECTL_STATEMENT_TIMEOU"),
    case("bad project for init", "init", "OUT/new", "--project", "a-b", says="project 'a-b': use letters, digits and"),
    case("SQL for a project", "init", "OUT/new", "--project", INJECTION, says="use letters, digits and underscores"),
    case("unknown profile", "init", "OUT/new", "--profile", "cloud", says="'cloud' is not one of 'embedded', 'timesca"),
    case("init over a repository", "init", ".", says="already has .env.example"),
    case("init in a file", "init", "OUT/kept.csv", says="kept.csv can't be written: File exists; name another directo"),
    case("init below a file", "init", "OUT/kept.csv/new", says="can't be written: Not a directory"),
    case("init in a read-only tree", "init", "/proc/new/market", says="can't be written: No such file or directory"),
    case("init with a long name", "init", f"OUT/{'x' * 300}", says="can't be written: File name too long"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of candle files and spines, each bad in its own way."""
    folder = tmp_path_factory.mktemp("files")
    good = candles()
    header, *rows = good.decode().splitlines()
    named = [f"symbol,{header}", *(f"ETHUSDT,{row}" for row in rows)]
    contents = {
        "BTCUSDT_1h.csv": good,
        "empty_1h.csv": b"",
        "binary_1h.csv": bytes(range(256)) * 20,
        "BTCUSDT_1h.csv.gz": gzip.compress(good)[:-40],
        "damaged_1h.csv.gz": gzip.compress(good)[:40] + b"x" * 400,
        "damaged_1h.parquet": b"PAR1 and no more",
        "BTCUSDT_header_1h.csv": f"{header}\n".encode(),
        "unknown_1h.csv": b"when,bid,ask\n2024-01-01,1,2\n",
        "headless_1h.csv": b"1704067200,1,2,1,2\n1704070800,1,2,1,2\n",
        "BTCUSDT_4h.csv": good,
        "BTCUSDT_1M.csv": good,
        "prices.csv": good,
        "ETHUSDT_1h.csv": "\n".join(named).encode(),
        "SOLUSDT_1h.csv": "\n".join([header, *("soon,one,two,three,four,five" for _ in rows)]).encode(),
        "spine_id.csv": b"entity_id,event_timestamp\nBTCUSDT,2024-01-02\n",
        "spine_names.csv": b"entity_id,event_timestamp,symbol\nA_1h,2024-01-02,A\nBTCUSDT_1h,2024-01-02,ETHUSDT\n",
        "spine_time.csv": b"entity_id,event_timestamp\nBTCUSDT_1h,yesterday\n",
        "spine_columns.csv": b"label,when\n1,2024-01-02\n",
        "spine_keys.csv": b"event_timestamp\n2024-01-02\n",
        "spine_feature.csv": b"entity_id,event_timestamp,rsi_14\nBTCUSDT_1h,2024-01-02,4\n",
        "spine_injection.csv": f'entity_id,event_timestamp\n"{INJECTION}_1h",2024-01-02\n'.encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.csv").mkdir()
    return folder


@pytest.mark.parametrize("tried", [*NAMES, *WORDS, *INPUT_FILES, *OUTPUT_FILES, *PLACES])
def test_bad_words_and_files(market: Repo, files: Path, out: Path, tried: Case) -> None:
    before = state(market), tree(out)
    words = [word.replace("FILES", str(files)).replace("OUT", str(out)) for word in tried.words]
    done = market.run(*words, env=tried.env, input=tried.input) if "-" in words else market.call(*words, env=tried.env)
    check(done, tried.code, tried.message)
    assert (state(market), tree(out)) == before


# --- feature_store.yaml ----------------------------------------------------------------------------------------------

SETTINGS = [
    pytest.param(b"", "is empty or not a mapping; compare it with what `featurectl init` writes", id="empty"),
    pytest.param(b"- a\n- b\n", "is empty or not a mapping", id="a list"),
    pytest.param(b"project: [\n", "line 2, column 1 is not YAML", id="broken"),
    pytest.param(b"\xff\xfe\x00", "is not a text file in UTF-8", id="binary"),
    pytest.param(b"a: &a [*a]\n", "an alias (*) lies inside its own anchor (&)", id="endless"),
    pytest.param(b"project: !!python/object:os.system x\n", "could not determine a constructor", id="code"),
    pytest.param(b"provider: local\n", "project must be letters, digits and underscores, not None", id="no project"),
    pytest.param(b"project: 12\n", "project must be letters, digits and underscores, not 12", id="project a number"),
    pytest.param(b'project: "x\'; DROP TABLE a; --"\n', "project must be letters, digits and", id="project with SQL"),
    pytest.param(b"project: p\nregistry: ${NO_SUCH}\n", "registry names ${NO_SUCH}, which is not", id="unset variable"),
    pytest.param(b"project: p\nregistry: ${}\n", "registry has ${}, which names no variable", id="no variable"),
    pytest.param(b"project: p\nregistry: ${A:-b}\n", "${A:-b}, which names no variable", id="variable with a default"),
    pytest.param(b"project: p\nfeaturectl: [1]\n", "featurectl must be a mapping", id="section a list"),
    pytest.param(b"project: p\nfeaturectl: {warmup_bars: 0}\n", "be a whole number of 400 or more", id="warm-up 0"),
    pytest.param(b"project: p\nfeaturectl: {warmup_bars: many}\n", "or more, not 'many'", id="warm-up in words"),
    pytest.param(b"project: p\nfeaturectl: {statement_timeout: soon}\n", "'soon' is not a number of se", id="time-out"),
    pytest.param(b"project: p\nfeaturectl: {connect_timeout: -1}\n", "'-1' is not a number of", id="time-out below 0"),
    pytest.param(b"project: other\n", "project 'other' has published no catalog in this databas", id="another project"),
]


@pytest.mark.parametrize(("content", "message"), SETTINGS)
def test_bad_settings(market: Repo, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "feature_store.yaml").write_bytes(content)
    before = state(market)
    check(market.call("views", "-C", tmp_path), 2, message)
    assert state(market) == before


def test_a_repository_without_a_database_says_what_to_set(market: Repo, tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("project: market\n")
    done = market.run("views", "-C", tmp_path, env={"FEATURECTL_DATABASE_URL": ""})
    check(done, 2, "names no database; set FEATURECTL_DATABASE_URL")
    make_repository(tmp_path / "server", Profile.TIMESCALE)
    done = market.run("views", "-C", tmp_path / "server", env={"FEATURECTL_DATABASE_URL": ""})
    check(done, 2, "names ${FEATURECTL_DATABASE_URL}, which is not set; export FEATURECTL_DATABASE_URL")


def test_no_repository_here_or_above(market: Repo, tmp_path: Path) -> None:
    check(Repo(tmp_path, market.url).run("views"), 2, "run `featurectl init`, or name the repository with -C DIR")


# --- servers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket directory of a server that asks one role, keeper, for a password."""
    data = embedded.data_dir(tmp_path_factory.mktemp("guarded"))
    with open_connection(embedded.ensure_running(data), connect_timeout=10) as connection:
        connection.execute(sql.SQL("CREATE ROLE keeper LOGIN PASSWORD {}").format(sql.Literal("the right one")))
        rules = data / "pg_hba.conf"
        rules.write_text(f"local all keeper scram-sha-256\n{rules.read_text()}")
        connection.execute("SELECT pg_reload_conf()")
        port = connection.info.port
    yield f"host={quote(str(data), safe='')}&port={port}"
    embedded.stop(data)


def test_a_wrong_password(market: Repo, guarded: str) -> None:
    url = f"postgresql://keeper:{SECRET}@/postgres?{guarded}"
    done = market.run("views", "--debug", env={"FEATURECTL_DATABASE_URL": url})
    assert SECRET not in done.stdout + done.stderr
    assert 'password authentication failed for user "keeper"; check user and password in' in done.stderr
    check(market.run("views", env={"FEATURECTL_DATABASE_URL": url}), 3, "password authentication failed")


def test_a_missing_database(market: Repo) -> None:
    url = with_database(market.url, "no_such_database")
    check(market.run("views", "--database-url", url), 3, '"no_such_database" does not exist; create it, or correct')


def test_an_empty_database(market: Repo, clone: Callable[[str | None], str]) -> None:
    url = clone(None)
    said = "error: nothing has been applied to this database yet; run `featurectl apply`"
    for words in (["get-online", "BTCUSDT_1h"], ["compute"], ["materialize"], ["services"], [*OFFLINE]):
        check(market.run(*words, "--database-url", url), 2, said)


def test_nothing_applied_is_not_said_of_a_table_that_was_lost(repo: Repo) -> None:
    for table, said in {
        "catalog_fields": 'relation "featurectl.catalog_fields" does not exist; run `featurectl apply`',
        "catalogs": "nothing has been applied to this database yet; run `featurectl apply`",
    }.items():
        with repo.connect() as connection:
            connection.execute(sql.SQL("DROP TABLE featurectl.{}").format(sql.Identifier(table)))
        for words in (["get-online", "BTCUSDT_1h"], ["services"]):
            check(repo.run(*words), 2, said)


def test_a_server_that_is_down(market: Repo, tmp_path: Path) -> None:
    data = embedded.data_dir(tmp_path)
    url = embedded.ensure_running(data)
    embedded.stop(data)
    before = state(market)
    for words in (
        ["get-online", "BTCUSDT_1h"],
        [*OFFLINE],
        ["compute"],
        ["materialize"],
        ["plan"],
        ["apply"],
        ["db", "status"],
    ):
        check(market.run(*words, "--database-url", url), 3, "check that the server runs and FEATURECTL_DATABASE_URL")
    check(market.run(*INGEST, "-", "--database-url", url, input=candles()), 3, "check that the server runs")
    assert state(market) == before


@pytest.fixture
def guest(market: Repo) -> Iterator[str]:
    """The URL of the market's database for a role that may connect and see what there is, and no more."""
    role, parts = f"guest_{uuid.uuid4().hex[:8]}", conninfo_to_dict(market.url)
    name = sql.Identifier(role)
    with market.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(SECRET)))
        host, port = quote(str(parts.get("host", "localhost")), safe=""), parts.get("port", 5432)
        yield f"postgresql://{role}:{SECRET}@/{parts['dbname']}?host={host}&port={port}"
        connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
        connection.execute(sql.SQL("DROP ROLE {}").format(name))


def test_a_role_without_rights(market: Repo, guest: str) -> None:
    before = state(market)
    for words in (["get-online", "BTCUSDT_1h"], [*OFFLINE], ["compute"], ["materialize"], ["services"], ["plan"]):
        check(market.run(*words, "--database-url", guest), 2, "ask the owner to grant it, or connect as another role")
    check(
        market.run(*INGEST, "-", "--symbol", "A", "--database-url", guest, input=candles()), 2, "permission denied for"
    )
    assert state(market) == before


def test_a_role_that_may_only_read(market: Repo, guest: str) -> None:
    role = sql.Identifier(str(conninfo_to_dict(guest)["user"]))
    with market.connect() as connection:
        for schema in ("featurectl", "market", "features", "online"):
            name = sql.Identifier(schema)
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(name, role))
            connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(name, role))
    before = state(market)
    assert market.run("get-online", "BTCUSDT_1h", "--database-url", guest).returncode == 0
    check(market.run("compute", "--full", "--database-url", guest), 2, "permission denied for table runs")
    check(market.run("materialize", "--database-url", guest), 2, "permission denied for table runs")
    done = market.run(*INGEST, "-", "--symbol", "A", "--database-url", guest, input=candles())
    check(done, 2, "permission denied for table runs")
    assert state(market) == before


# --- two at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name"),
    [
        pytest.param(["apply"], "apply market", id="apply"),
        pytest.param(["compute"], "compute features.technical_indicators", id="compute"),
        pytest.param(["materialize", "--view", VIEW], f"materialize market.{VIEW}", id="materialize"),
    ],
)
def test_two_at_once(market: Repo, words: list[str], name: str) -> None:
    before = state(market)
    with market.connect() as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"featurectl:{name}"])
        check(market.run(*words), 4, f"{name}: locked by another session (server process")
    assert state(market) == before


# --- interrupted -----------------------------------------------------------------------------------------------------


def start(
    repo: Repo, *words: str, stdin: int = subprocess.DEVNULL, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), *words],
        cwd=repo.root,
        env=repo.environment(env),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_session(repo: Repo, condition: str) -> int:
    """Wait until a command's session is in a state; return its server process."""
    statement = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        f"AND application_name = 'featurectl' AND {condition}"
    )
    deadline = time.monotonic() + 30
    while not (rows := repo.rows(statement)):
        assert time.monotonic() < deadline, "the command did not come as far as the database"
        time.sleep(0.02)
    return int(rows[0][0])


ENDED_BY = {signal.SIGINT: 130, signal.SIGTERM: 143}
BLOCKED, CONNECTED = "wait_event_type = 'Lock'", "state = 'idle'"


@contextlib.contextmanager
def nobody_else_may_write(repo: Repo, table: str, mode: str = "EXCLUSIVE") -> Iterator[None]:
    """Lock a table, so that a command stands still in the middle of its work."""
    statement = sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.Identifier(*table.split(".")), sql.SQL(mode))
    with repo.connect() as connection, connection.transaction():
        connection.execute(statement)
        yield


STOPPED = [
    pytest.param((*INGEST, "more_1h.csv", "--symbol", "MORE"), "market.candles", id="ingest"),
    pytest.param(("compute",), "features.technical_indicators", id="compute"),
    pytest.param(("materialize", "--view", VIEW), ONLINE, id="materialize"),
]


def make_work(repo: Repo) -> None:
    """Have a file to ingest, bars to compute, and online rows that are out of date."""
    (repo.root / "more_1h.csv").write_bytes(candles(5000))
    repo.ok(*INGEST, "more_1h.csv", "--symbol", "BTCUSDT")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("words", "table"), STOPPED)
def test_stopped_in_the_middle(market: Repo, words: tuple[str, ...], table: str, number: signal.Signals) -> None:
    make_work(market)
    before = state(market)
    with nobody_else_may_write(market, table):
        process = start(market, *words)
        wait_for_session(market, BLOCKED)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    done = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
    check(done, ENDED_BY[number], "interrupted; what was not finished was rolled back")
    assert state(market) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_stdin_is_slow(market: Repo, number: signal.Signals) -> None:
    before = state(market)
    process = start(market, *INGEST, "-", "--symbol", "SLOW", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(candles(3000).decode())
    process.stdin.flush()
    wait_for_session(market, CONNECTED)
    process.send_signal(number)
    assert process.wait(timeout=30) == ENDED_BY[number]
    assert "error: interrupted" in process.communicate()[1]
    assert state(market) == before


def test_stopped_while_a_training_set_is_read(market: Repo, out: Path) -> None:
    before = tree(out)
    with nobody_else_may_write(market, "features.technical_indicators", "ACCESS EXCLUSIVE"):
        process = start(market, *OFFLINE, "-o", str(out / "kept.csv"))
        wait_for_session(market, BLOCKED)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert "error: interrupted" in process.communicate()[1]
    assert tree(out) == before


@pytest.mark.parametrize(("words", "table"), STOPPED)
def test_the_server_ends_the_session(market: Repo, words: tuple[str, ...], table: str) -> None:
    make_work(market)
    before = state(market)
    with nobody_else_may_write(market, table):
        process = start(market, *words)
        pid = wait_for_session(market, BLOCKED)
        market.rows("SELECT pg_terminate_backend(%s)", pid)
        stdout, stderr = process.communicate(timeout=30)
    done = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
    check(done, 3, "error: the database: ")
    assert state(market) == before


@pytest.mark.parametrize(("words", "table"), STOPPED)
def test_a_session_that_the_server_ends_is_replaced(repo: Repo, words: tuple[str, ...], table: str) -> None:
    fill(repo)
    make_work(repo)
    with nobody_else_may_write(repo, table):
        process = start(repo, *words, env={"FEATURECTL_RETRY_FOR": "30"})
        first = wait_for_session(repo, BLOCKED)
        repo.rows("SELECT pg_terminate_backend(%s)", first)
        assert wait_for_session(repo, f"{BLOCKED} AND pid <> {first}")
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, "trying again" in stderr) == (0, True), stderr


# --- streams ---------------------------------------------------------------------------------------------------------


def through_shell(repo: Repo, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line.replace("featurectl", str(SCRIPT))],
        cwd=repo.root,
        env=repo.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", ["views --format csv", " ".join(OFFLINE), f"{' '.join(OFFLINE)} --format parquet"])
def test_a_reader_that_went_away_is_no_error(market: Repo, words: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [str(SCRIPT), *words.split()],
            cwd=market.root,
            env=market.environment(),
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert done.returncode == 141
    assert "error" not in done.stderr.lower()


def test_head_takes_the_first_line(market: Repo) -> None:
    done = through_shell(market, f"featurectl {' '.join(OFFLINE)} --format csv | head -1")
    assert done.stdout.startswith('"entity_id","symbol"')
    assert "error" not in done.stderr.lower()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "words", ["views", f"{' '.join(OFFLINE)} --format csv", f"{' '.join(OFFLINE)} --format parquet"]
)
def test_a_full_disk_behind_stdout(market: Repo, words: str) -> None:
    done = through_shell(market, f"featurectl {words} > /dev/full")
    check(done, 2, "stdout can't be written: No space left on device; write to a file with -o FILE")


def test_closed_streams(market: Repo) -> None:
    check(through_shell(market, "featurectl ingest candles - --symbol A --timeframe 1h <&-"), 2, "-: is empty")
    assert through_shell(market, "featurectl views >&-").returncode == 0
    assert through_shell(market, "featurectl views nope 2>&-").returncode == 2
    assert through_shell(market, "featurectl views nope <&- >&- 2>&-").returncode == 2


def test_a_pipe_as_output_is_written_to_and_stays_one(market: Repo, out: Path) -> None:
    os.mkfifo(out / "pipe")
    done = through_shell(market, f"featurectl views --json -o {out}/pipe & cat {out}/pipe; wait")
    assert '"command": "views"' in done.stdout
    assert (out / "pipe").is_fifo()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read everything")
def test_files_and_folders_without_permission(market: Repo, out: Path) -> None:
    (out / "kept.csv").chmod(0)
    out.chmod(0o555)
    try:
        check(market.run(*INGEST, out / "kept.csv"), 2, "no permission to read it; check its owner and mode")
        check(market.run("views", "-o", out / "x.csv"), 2, "can't be written: Permission denied")
        check(market.run("init", out / "new"), 2, "can't be written: Permission denied")
    finally:
        out.chmod(0o755)


# --- part of the work ------------------------------------------------------------------------------------------------


def test_one_good_file_and_one_bad_is_partly_done(repo: Repo, files: Path) -> None:
    done = repo.run(*INGEST, files / "BTCUSDT_1h.csv", files / "empty_1h.csv")
    check(done, 5, "1 of 2 files read")
    assert "warning: " in done.stderr
    assert "empty_1h.csv: is empty" in done.stderr
    assert repo.rows("SELECT count(*) FROM market.candles") == [(60,)]


def test_init_that_fails_half_way_leaves_nothing(market: Repo, tmp_path: Path) -> None:
    # A folder stands where the last file goes: those before it are written, and taken away again.
    (tmp_path / "feature_store.yaml").mkdir()
    check(market.run("init", tmp_path, "--force"), 2, "can't be written: Is a directory")
    assert tree(tmp_path) == {"feature_store.yaml": None}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "feature_repo").write_text("mine")
    check(market.run("init", tmp_path / "new"), 2, "can't be written: Not a directory")
    assert tree(tmp_path / "new") == {"feature_repo": b"mine"}


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_init_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, done: bool
) -> None:
    replace, calls = os.replace, iter(range(1, 100))

    def interrupted(source: str, target: str) -> None:
        last = next(calls) == count
        if done or not last:
            replace(source, target)
        if last:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_repository(tmp_path / "new" / "market", Profile.EMBEDDED)
    assert tree(tmp_path) == {}


# --- what is no error ------------------------------------------------------------------------------------------------


def test_no_command_shows_the_help(market: Repo) -> None:
    for words in ([], ["ingest"], ["db"]):
        done = market.run(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: featurectl")


@pytest.mark.parametrize("symbol", ["NOPE", "市場₿", "%s%(a)s{}", "A" * 5000, "a_b", "a'b\"c;--"])
def test_an_entity_that_is_not_there_is_not_found(market: Repo, symbol: str) -> None:
    done = market.call("get-online", f"{symbol}_1h", "-f", "rsi_14", "--format", "csv")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].endswith(",,,online,,NOT_FOUND")
    assert f"warning: {symbol}_1h: {VIEW} has no row; compute and materialize it" in done.stderr
    done = market.call("get-offline", f"{symbol}_1h", *WINDOW, "--format", "csv")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert "warning: there are no features for these ids in this window" in done.stderr


def test_a_stale_value_is_withheld(market: Repo) -> None:
    done = market.run("get-online", "BTCUSDT_1h", "-f", "rsi_14", "--format", "csv")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].endswith(",online,,OUTSIDE_MAX_AGE")
    assert "past its TTL of 1h: withheld; --allow-stale serves it, --as-of 2024-01-03T12:00:00Z" in done.stderr


def test_names_of_any_kind_in_files_are_data(repo: Repo) -> None:
    header, *rows = candles().decode().splitlines()
    symbols = ["X';DROPTABLE_MARKET.CANDLES;", "%S%(A)S", '"{}', "市場₿", "A_B"]
    lines = ["symbol,timeframe," + header]
    for symbol in symbols:
        cell = '"' + symbol.replace('"', '""') + '"'
        lines += [f"{cell},1h,{row}" for row in rows]
    repo.ok(*INGEST, "-", input="\n".join(lines).encode())
    repo.ok("compute")
    repo.ok("materialize")
    assert sorted(symbol for (symbol,) in repo.rows("SELECT DISTINCT symbol FROM market.candles")) == sorted(symbols)
    for symbol in symbols:
        (found,) = repo.json("get-online", f"{symbol}_1h", "-f", "rsi_14", "--as-of", "2024-01-03T12:10Z")["results"]
        assert (found["symbol"], found["statuses"]["rsi_14"]) == (symbol, "PRESENT")


def test_symbols_no_database_could_hold_are_rejected_row_by_row(repo: Repo, tmp_path: Path) -> None:
    header, *rows = candles().decode().splitlines()
    lines = ["symbol,timeframe," + header, *(f"GOOD,1h,{row}" for row in rows), f"{'S' * 3000},1h,{rows[0]}"]
    done = repo.run(*INGEST, "-", "--rejects", tmp_path / "r.csv", input="\n".join(lines).encode())
    assert done.returncode == 0
    assert "rejected 1 row" in done.stderr
    assert repo.rows("SELECT DISTINCT symbol FROM market.candles") == [("GOOD",)]


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("place", ["environment", "flag", "file"])
def test_a_password_is_never_shown(market: Repo, tmp_path: Path, place: str, debug: bool) -> None:
    shutil.copytree(market.root, tmp_path / "market")
    settings = tmp_path / "market" / "feature_store.yaml"
    text = settings.read_text()
    assert "database: embedded" in text
    if place == "file":
        text = text.replace("database: embedded", f'database: "{NOBODY}"').replace("${FEATURECTL_DATABASE_URL}", NOBODY)
        settings.write_text(text)
    repo = Repo(tmp_path / "market", "" if place == "file" else NOBODY)
    flags = [*(["--debug"] if debug else []), *(["--database-url", NOBODY] if place == "flag" else [])]
    for words in (["get-online", "BTCUSDT_1h"], [*OFFLINE], ["materialize"], ["db", "status"], ["apply"], ["doctor"]):
        done = repo.call(*words, *flags)
        assert done.returncode in (1, 3), done
        assert SECRET not in done.stdout + done.stderr
        assert debug == ("Traceback" in done.stderr) or words == ["doctor"]


# --- definitions -----------------------------------------------------------------------------------------------------

TECHNICAL, INDICATORS, ENTITIES, SERVICES = (
    f"feature_repo/{name}.py" for name in ("technical_indicators", "indicators", "entities", "services")
)
ATR = 'Field(name="atr", dtype=Float64, tags={"min": "0", **PRICE, **DEFINED})'
Edit = tuple[str, str, str]


def definition(name: str, *edits: Edit, names: tuple[str, ...], copy: tuple[str, ...] = ()) -> Any:
    return pytest.param(edits, copy, names, id=name)


def renamed_atr(name: str) -> Edit:
    return TECHNICAL, 'name="atr"', f'name="{name}"'


PLAIN: tuple[Edit, ...] = (
    ("feature_repo/second.py", 'tags={"computed_from": "candles", "functions": "indicators.py"}', "tags={}"),
    ("feature_repo/second.py", '"technical_indicators_view"', '"plain_view"'),
    ("feature_repo/second.py", 'name="technical_indicators"', 'name="plain"'),
)
SOURCE = 'table="features.technical_indicators"'

DEFINITIONS = [
    definition(
        "syntax error", (TECHNICAL, "= FeatureView(", "= = FeatureView("), names=(f"{TECHNICAL} line 27", "SyntaxError")
    ),
    definition("syntax error in functions", (INDICATORS, "def macd(", "def macd(("), names=(INDICATORS, "SyntaxError")),
    definition(
        "missing module",
        (TECHNICAL, "from feast import", "import nosuch\nfrom feast import"),
        names=(TECHNICAL, "nosuch"),
    ),
    definition(
        "undefined name", (TECHNICAL, "timedelta(hours=1)", "nosuch"), names=(TECHNICAL, "'nosuch' is not defined")
    ),
    definition(
        "missing function", (INDICATORS, "def atr(", "def art("), names=(INDICATORS, "field 'atr' has no function")
    ),
    definition(
        "missing functions file", (TECHNICAL, '"indicators.py"', '"none.py"'), names=("none.py does not exist",)
    ),
    definition(
        "functions in no Python",
        (TECHNICAL, '"indicators.py"', '"/etc/passwd"'),
        names=(TECHNICAL, "functions=/etc/passwd"),
    ),
    definition(
        "unknown input", (INDICATORS, "def rsi_14(close", "def rsi_14(clsoe"), names=(INDICATORS, "rsi_14", "'clsoe'")
    ),
    definition(
        "circle",
        (INDICATORS, "def rsi_14(close", "def rsi_14(macd"),
        (INDICATORS, "def macd(close", "def macd(rsi_14"),
        names=(INDICATORS, "need each other in a circle: ", "rsi_14", "macd"),
    ),
    definition(
        "unknown computed source", (TECHNICAL, '"candles"', '"tea"'), names=(TECHNICAL, "tea; choices: candles")
    ),
    definition(
        "field twice", (TECHNICAL, ATR, f"{ATR}, {ATR}"), names=(TECHNICAL, "field 'atr' of view", "is there twice")
    ),
    definition(
        "view twice", copy=(TECHNICAL,), names=(f"view '{VIEW}' is defined twice", TECHNICAL, "feature_repo/second.py")
    ),
    definition(
        "view twice but for capitals",
        ("feature_repo/second.py", VIEW, VIEW.upper()),
        copy=(TECHNICAL,),
        names=("is defined twice", TECHNICAL, "feature_repo/second.py"),
    ),
    definition(
        "source twice",
        ("feature_repo/second.py", '"technical_indicators_view"', '"other"'),
        copy=(TECHNICAL,),
        names=("source 'technical_indicators' is defined twice", TECHNICAL, "feature_repo/second.py"),
    ),
    definition(
        "entity twice",
        ("feature_repo/second.py", "A trading pair", "Another pair"),
        copy=(ENTITIES,),
        names=("entity 'symbol' is defined twice", ENTITIES, "feature_repo/second.py"),
    ),
    definition("service twice", copy=(SERVICES,), names=("_service' is defined twice", SERVICES)),
    definition(
        "unsupported type",
        (TECHNICAL, ATR, 'Field(name="atr", dtype=Map)'),
        (TECHNICAL, "import Float64", "import Float64, Map"),
        names=(TECHNICAL, "field 'atr'", "has type Map; types: Float64"),
    ),
    definition(
        "unsupported key type",
        (ENTITIES, "ValueType.STRING", "ValueType.MAP"),
        names=("feature_repo/market_features.py", "join key 'symbol'", "has type Map"),
    ),
    definition(
        "reserved name", renamed_atr("event_timestamp"), names=(TECHNICAL, "field 'event_timestamp'", "rename it")
    ),
    definition("reserved name too", renamed_atr("created_timestamp"), names=(TECHNICAL, "field 'created_timestamp'")),
    definition("name too long", renamed_atr("a" * 64), names=(TECHNICAL, "longer than the 63 bytes PostgreSQL keeps")),
    definition("empty name", renamed_atr(""), names=(TECHNICAL, "field '' of view", "rename it")),
    definition("name with a comma", renamed_atr("a,b"), names=(TECHNICAL, "field 'a,b' of view", "rename it")),
    definition("name with SQL", renamed_atr(INJECTION), names=(TECHNICAL, "DROP TABLE", "rename it")),
    definition("name with a newline", renamed_atr("a\\nb"), names=(TECHNICAL, "rename it")),
    definition("name with a percent sign", renamed_atr("%s"), names=(TECHNICAL, "field '%s' of view", "rename it")),
    definition(
        "view's name with SQL", (TECHNICAL, f'"{VIEW}"', f'"{INJECTION}"'), names=(TECHNICAL, "DROP", "rename it")
    ),
    definition("TTL below 0", (TECHNICAL, "hours=1", "hours=-1"), names=(TECHNICAL, VIEW, "ttl=-1 day")),
    definition(
        "TTL without end", (TECHNICAL, "timedelta(hours=1)", "timedelta.max"), names=(TECHNICAL, VIEW, "36500 days")
    ),
    definition(
        "undefined entity",
        (TECHNICAL, "[symbol, timeframe]", '[symbol, Entity(name="pair", join_keys=["pair"])]'),
        (TECHNICAL, "import FeatureView", "import Entity, FeatureView"),
        names=(TECHNICAL, VIEW, "has entity 'pair'; entities: symbol"),
    ),
    definition(
        "missing table",
        *PLAIN,
        ("feature_repo/second.py", SOURCE, 'table="features.none"'),
        copy=(TECHNICAL,),
        names=("feature_repo/second.py", "plain_view", '"features.none" does not exist'),
    ),
    definition(
        "missing table without a schema",
        *PLAIN,
        ("feature_repo/second.py", SOURCE, 'table="none"'),
        copy=(TECHNICAL,),
        names=("feature_repo/second.py", "plain_view", '"none" does not exist'),
    ),
    definition(
        "query that is no SQL",
        *PLAIN,
        ("feature_repo/second.py", SOURCE, 'query="SELEC 1"'),
        copy=(TECHNICAL,),
        names=("feature_repo/second.py", "plain_view", "correct its table or query"),
    ),
    definition(
        "missing column",
        *PLAIN,
        ("feature_repo/second.py", 'name="atr"', 'name="none"'),
        copy=(TECHNICAL,),
        names=("feature_repo/second.py", "plain_view", "needs column 'none'"),
    ),
    definition(
        "exit in a definition",
        (SERVICES, "from feast", "raise SystemExit(3)\nfrom feast"),
        names=(SERVICES, "SystemExit: 3"),
    ),
    definition(
        "feature that a service can't find",
        (SERVICES, "[technical_indicators_view]", '[technical_indicators_view[["none"]]]'),
        names=(SERVICES, "Feature none does not exist"),
    ),
]


def edited(market: Repo, root: Path, edits: tuple[Edit, ...], copy: tuple[str, ...] = ()) -> Repo:
    """Return the market with changed definitions; ``copy`` names a file that is there twice, as second.py."""
    shutil.copytree(market.root, root)
    for name in copy:
        shutil.copy(root / name, root / "feature_repo" / "second.py")
    for name, before, after in edits:
        text = (root / name).read_text()
        assert before in text, (name, before)
        (root / name).write_text(text.replace(before, after, 1))
    return Repo(root, market.url)


@pytest.mark.parametrize(("edits", "copy", "names"), DEFINITIONS)
def test_bad_definitions(
    market: Repo,
    tmp_path: Path,
    edits: tuple[Edit, ...],
    copy: tuple[str, ...],
    names: tuple[str, ...],
) -> None:
    repo = edited(market, tmp_path / "market", edits, copy)
    before = state(repo)
    with pytest.raises(DefinitionError) as caught:
        steps.plan(repo.database)
    for name in names:
        assert name in str(caught.value)
    assert state(repo) == before


def test_a_definition_that_is_no_text(market: Repo, tmp_path: Path) -> None:
    repo = edited(market, tmp_path / "market", ())
    (repo.root / "feature_repo" / "broken.py").write_bytes(b"x = 1\x00")
    with pytest.raises(DefinitionError, match=r"feature_repo/broken\.py: SyntaxError"):
        steps.plan(repo.database)


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_bad_definitions_on_the_command_line(market: Repo, tmp_path: Path, command: str) -> None:
    repo = edited(market, tmp_path / "market", ((INDICATORS, "def atr(", "def art("),))
    before = state(repo)
    check(repo.run(command), 2, f"{INDICATORS}: field 'atr' has no function; write `def atr(close): …` there")
    assert state(repo) == before


def test_nothing_is_dropped_unless_allowed(market: Repo, tmp_path: Path) -> None:
    repo = edited(market, tmp_path / "market", ((TECHNICAL, "online=True", "online=False"),))
    before = state(repo)
    line = check(repo.run("apply"), 2, f"this would lose data: drop table {ONLINE}")
    assert "allow it with --allow-drop" in line
    assert state(repo) == before
