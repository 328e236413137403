"""Passwords stay out of everything that is printed or written, whatever the command, and wherever they come from."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import typer
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from featurectl.cli import app as command_line
from featurectl.cli.app import COMMANDS, run
from featurectl.core import redact
from featurectl.core.config import Overrides, load_config
from featurectl.core.db import Database
from featurectl.core.repository import Profile, make_repository
from featurectl.errors import DatabaseUnreachable
from featurectl.manager import FeastFeatureStoreManager
from tests.fix_database import TEST_URL_VARIABLE
from tests.fix_repository import Repo
from tests.integration.test_first_path import candles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")

# What is looked for is in every spelling of the password: its head and its tail, which nothing has to encode.
HEAD, TAIL = "s3cr3tHead", "t4ilOfSecret"
PLAIN = f"{HEAD}.{TAIL}"
ODD = f"{HEAD}@/:#?é '&;%\"{TAIL}"
URLS = {
    "plain": f"postgresql://USER:{PLAIN}@PLACE",
    "percent-encoded": f"postgresql://USER:{quote(ODD, safe='')}@PLACE",
    "query": f"postgresql://USER@PLACE&password={quote(ODD, safe='')}",
    "of SQLAlchemy": f"postgresql+psycopg://USER:{PLAIN}@PLACE",
}
DEAD = "127.0.0.1:1/d?application_name=x"
SOURCES = ("flag", "environment", "file")
FLAGS = ([], ["--debug"], ["--debug", "--log-format", "json"])

# What commands are called with, where nothing would be too little.
ARGUMENTS: dict[tuple[str, ...], list[str]] = {
    ("init",): ["TMP/made"],
    ("demo",): ["TMP/demo"],
    ("ingest", "candles"): ["TMP/BTCUSDT_1h.csv"],
    ("ingest", "order-book"): ["TMP/book.csv", "--symbol", "BTCUSDT"],
    ("ingest", "trades"): ["TMP/trades.csv", "--symbol", "BTCUSDT"],
    ("ingest", "signals"): ["TMP/news_sentiment.csv"],
    ("backfill",): ["--from", "2024-01-01", "--to", "2024-01-03"],
    ("report",): ["-o", "TMP/report.html", "--title", f"postgresql://u:{PLAIN}@h/d"],
    ("run",): ["--heartbeat", f"http://127.0.0.1:1/{PLAIN}"],
    ("get-online",): ["BTCUSDT_1h"],
    ("get-offline",): ["BTCUSDT_1h", "--start", "2024-01-01", "--end", "2024-01-03", "-o", "TMP/out.csv"],
    ("feast",): ["--", "version"],
}
FILES = {
    "BTCUSDT_1h.csv": candles(),
    "book.csv": b"time,bid,bid_size,ask,ask_size\n2024-01-03T12:00:00Z,1,1,2,1\n",
    "trades.csv": b"id,time,price,size\n1,2024-01-03T12:00:00Z,1,1\n",
    "news_sentiment.csv": b"time,score\n2024-01-03T12:00:00Z,0.5\n",
}
# These take Feast's seconds, or go on until somebody stops them; one of the first is tried by itself.
SLOW = {("plan",), ("apply",), ("demo",), ("feast",)}


def leaves() -> list[tuple[str, ...]]:
    """Every command there is: whatever is added is tried as well."""
    root: Any = typer.main.get_command(command_line.app)
    groups = {name: root.get_command(None, name) for name, entry in COMMANDS.items() if entry.group}
    return [
        words
        for name in COMMANDS
        for words in ([(name, inner) for inner in groups[name].commands] if name in groups else [(name,)])
    ]


def leaks(text: str) -> bool:
    return HEAD.lower() in text.lower() or TAIL.lower() in text.lower()


@dataclass(frozen=True)
class Shop:
    """A repository whose commands run in this process, each with nothing remembered of the secrets of those before."""

    root: Path
    tmp: Path
    capfd: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def run(self, words: tuple[str, ...], source: str, url: str, *flags: str) -> tuple[int, str]:
        """Run a command with the URL from a source; return its code and all that it printed."""
        arguments = [word.replace("TMP", str(self.tmp)) for word in ARGUMENTS.get(words, [])]
        shutil.rmtree(self.tmp / "made", ignore_errors=True)
        settings = self.root / "feature_store.yaml"
        text = settings.read_text()
        self.monkeypatch.setattr(redact, "_known", set())
        self.monkeypatch.delenv("FEATURECTL_DATABASE_URL", raising=False)
        if source == "environment":
            self.monkeypatch.setenv("FEATURECTL_DATABASE_URL", url)
        if source == "file":
            written = url.replace("'", "''")
            settings.write_text(
                text.replace("database: embedded", f"database: '{written}'").replace(
                    '"${FEATURECTL_DATABASE_URL}"', f"'{written}'"
                )
            )
        given = ["--database-url", url] if source == "flag" else []
        self.capfd.readouterr()
        try:
            with at_most(seconds=20):
                code = run([*given, "-C", str(self.root), *words, *flags, *arguments])
        finally:
            settings.write_text(text)
        printed = self.capfd.readouterr()
        return code, printed.out + printed.err

    def written(self) -> list[Path]:
        """The files with a secret in them, in the repository and beside it."""
        files = [path for folder in (self.root, self.tmp) for path in folder.rglob("*") if path.is_file()]
        return [path for path in files if leaks(f"{path.name} {path.read_bytes().decode(errors='replace')}")]


@contextlib.contextmanager
def at_most(*, seconds: float) -> Iterator[None]:
    """Interrupt, as Ctrl-C would, what goes on for longer."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def shop(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shop:
    root = make_repository(tmp_path / "repository", Profile.EMBEDDED, project="market").root
    (tmp_path / "files").mkdir()
    for name, content in FILES.items():
        (tmp_path / "files" / name).write_bytes(content)
    monkeypatch.setenv("FEATURECTL_NOW", "2024-01-03T12:10:00Z")
    monkeypatch.setenv("FEATURECTL_RETRY_FOR", "0")

    def execute(program: str, words: list[str], environment: dict[str, str]) -> None:
        # psql would take the place of this process: what others see of it are its words.
        print(program, *words)
        assert leaks(environment.get("PGPASSWORD", ""))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execvpe", execute)
    return Shop(root, tmp_path / "files", capfd, monkeypatch)


# --- a server that does not answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_nothing_secret_is_said_of_a_server_that_does_not_answer(shop: Shop, words: tuple[str, ...]) -> None:
    for row, source in enumerate(SOURCES):
        if words == ("demo",) and source != "environment":
            continue  # its repository is another one, with a server of its own
        for column, (spelling, url) in enumerate(URLS.items()):
            flags = FLAGS[(row + column) % len(FLAGS)]
            code, printed = shop.run(words, source, url.replace("USER", "u").replace("PLACE", DEAD), *flags)
            assert not leaks(printed), (source, spelling, flags, printed)
            assert code != 70, (source, spelling, flags, printed)
    assert shop.written() == []


def test_the_secret_would_be_found(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the redaction it is there: the tests above look at the right place."""
    url = URLS["plain"].replace("USER", "u").replace("PLACE", DEAD)
    words = ("init", str(shop.tmp / "made"), "--project", url)
    _, printed = shop.run(words, "environment", url)
    assert "project 'postgresql://u:***@127.0.0.1:1/d" in printed
    assert not leaks(printed)
    monkeypatch.setattr("featurectl.cli.diagnostics.redact", lambda text: text)
    assert leaks(shop.run(words, "environment", url)[1])
    (shop.tmp / "log").write_text(f"password {PLAIN}")
    assert shop.written() == [shop.tmp / "log"]


# --- a server that does ----------------------------------------------------------------------------------------------

live = pytest.mark.skipif(TEST_URL_VARIABLE in os.environ, reason="that server may look at the password")


def urls_of(url: str) -> dict[str, str]:
    """A database's URL with passwords, at which a server that trusts whoever connects does not look."""
    parts = conninfo_to_dict(url)
    place = f"/{parts['dbname']}?host={quote(str(parts['host']), safe='')}&port={parts['port']}"
    user = str(parts["user"])
    return {name: text.replace("USER", user).replace("PLACE", place) for name, text in URLS.items()}


def rows_with_secrets(repo: Repo) -> list[str]:
    """The tables of a database that hold a secret, as text or as bytes."""
    found = []
    columns = repo.rows(
        "SELECT table_schema::text, table_name::text, column_name::text, data_type = 'bytea' "
        "FROM information_schema.columns "
        "WHERE table_schema !~ '^(pg_|information_schema|_timescaledb|timescaledb)'"
    )
    with repo.connect() as connection:
        for schema, table, column, is_bytes in columns:
            value = sql.SQL("encode({}, 'escape')" if is_bytes else "{}::text").format(sql.Identifier(column))
            statement = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} ~* %s)").format(
                sql.Identifier(schema, table), value
            )
            (there,) = connection.execute(statement, [f"{HEAD}|{TAIL}"]).fetchone() or (False,)
            found += [f"{schema}.{table}.{column}"] if there else []
    return found


@live
def test_nothing_secret_is_said_or_kept_where_the_server_answers(shop: Shop, repo: Repo) -> None:
    succeeded = set()
    urls = urls_of(repo.url)
    for source, url in zip(SOURCES, (urls["percent-encoded"], urls["query"], urls["of SQLAlchemy"]), strict=True):
        for words in leaves():
            if words in SLOW:
                continue
            code, printed = shop.run(words, source, url, "--debug")
            assert not leaks(printed), (words, source, printed)
            assert code != 70, (words, source, printed)
            succeeded |= {words} if code == 0 else set()
    assert rows_with_secrets(repo) == []
    assert shop.written() == []
    # It was worth looking: they did what they do.
    assert succeeded >= {
        ("compute",),
        ("materialize",),
        ("get-online",),
        ("get-offline",),
        ("db", "status"),
        ("views",),
    }
    assert {words for words in succeeded if words[0] == "ingest"} == {
        words for words in leaves() if words[0] == "ingest"
    }


@live
def test_feast_keeps_no_secret_either(shop: Shop, clone: Callable[[str | None], str]) -> None:
    """Feast's own errors quote what they were given; its registry stands in the database, for all who may read it."""
    repo = Repo(shop.root, clone(None))
    url = urls_of(repo.url)["percent-encoded"]
    code, printed = shop.run(("apply",), "environment", url, "--debug")
    assert code == 0, printed
    assert not leaks(printed)
    assert rows_with_secrets(repo) == []
    code, printed = shop.run(("feast", "--", "configuration"), "environment", url)
    assert (code, "postgresql+psycopg://postgres:***@" in printed, leaks(printed)) == (0, True, False), printed
    settings = shop.root / "feature_store.yaml"
    text = settings.read_text()
    for before, after in (
        ("provider: local", "provider: none"),
        ("registry_type: sql", "registry_type: nothing"),
        ("max_parallel: 4", "max_parallel: many"),
        ("online_store:\n", "online_store:\n  max_conn: many\n"),
        ("offline_store:\n", "offline_store:\n  nonsense: 1\n"),
        ("cache_ttl_seconds: 60", "cache_ttl_seconds: sixty"),
    ):
        assert before in text
        settings.write_text(text.replace(before, after, 1))
        code, printed = shop.run(("plan",), "file", url, "--debug")
        assert not leaks(printed), (after, printed)
    settings.write_text(text)
    assert shop.written() == []


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", URLS)
def test_nothing_secret_is_shown_of_an_object_or_said_by_a_manager(
    shop: Shop, caplog: pytest.LogCaptureFixture, spelling: str
) -> None:
    url = URLS[spelling].replace("USER", "u").replace("PLACE", DEAD)
    config = load_config(Overrides(repo=shop.root, database_url=url))
    assert not leaks(f"{config} {config!r} {Database(config)} {Database(config)!r}")
    shop.monkeypatch.setenv("FEATURECTL_DATABASE_URL", url)

    async def ask() -> str:
        manager = FeastFeatureStoreManager(shop.root)
        try:
            with pytest.raises(DatabaseUnreachable) as caught:
                await manager.get_online_features_rows(["BTCUSDT_1h"], ["rsi_14"])
            health = await manager.health()
        finally:
            await manager.close()
        return f"{manager!r} {json.dumps(health, default=str)} {caught.value} {caught.value!r}"

    assert not leaks(asyncio.run(ask()))
    assert not leaks(caplog.text)
