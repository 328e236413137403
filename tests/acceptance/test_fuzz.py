"""Odd values for every option, argument, variable and setting: no traceback, and an exit code that is documented.

FEATURECTL_TEST_FUZZ=N tries every value in every place, which takes ten minutes, and N random command lines of a new
seed; N:SEED takes one of an earlier run.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurectl.core.config import SETTINGS
from featurectl.core.db import Connection
from featurectl.core.pipeline import Pipeline
from featurectl.core.storage import KEYS
from tests.fix_database import create_database, drop_database
from tests.fix_repository import CHECKOUT, Repo
from tests.fuzz import Caller, Case, Parameter, leaves, parameters, random_case
from tests.integration.test_first_path import candles
from tests.odd_values import DATABASE, DIRECTORY, NUMBER, TEXT, TIME, YAML, Kind, Words, make_files

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")

LARGE, _, SEED = os.environ.get("FEATURECTL_TEST_FUZZ", "").partition(":")
RANDOM = int(LARGE or 160)
# Random command lines are tried in so many tests, side by side.
PARTS = 4

NOW = "2024-01-03T12:30:00Z"
# They load Feast, or make a market: seconds each.
HEAVY = {("apply",), ("plan",), ("feast",), ("demo",)}
LIGHT = [words for words in leaves() if words not in HEAVY]
INGEST = {("ingest", kind) for kind in ("candles", "order-book", "trades", "signals")}
# What may change the rows of other tables than the ledger, and of those the ones that bring candles.
WRITERS = INGEST | {(name,) for name in ("compute", "materialize", "backfill", "run", "gaps", "maintain")}
BRING_CANDLES = {("ingest", "candles"), ("run",)}
TABLES = (
    "market.candles",
    "market.order_book",
    "market.trades",
    "market.signals",
    "features.technical_indicators",
    "online.market__technical_indicators_view",
    "featurectl.catalogs",
    "featurectl.known_absent",
)
# What a command needs besides the parameter that is tried; arguments give way to it.
ARGUMENTS: dict[Words, Words] = {
    ("get-online",): ("BTCUSDT_1h",),
    ("get-offline",): ("BTCUSDT_1h",),
    ("gaps",): ("BTCUSDT_1h",),
    ("init",): ("new",),
    **dict.fromkeys(INGEST, ("in/candles_BTCUSDT_1h.csv",)),
}
OPTIONS: dict[Words, Words] = {
    ("get-offline",): ("--start", "2024-01-01", "--end", "2024-01-05"),
    ("backfill",): ("--from", "2024-01-03T12:29:30Z"),
    # Fewer are as odd, and take less time.
    **dict.fromkeys([("lookahead",), ("consistency",)], ("--sample", "2")),
}


@dataclass(frozen=True)
class Market:
    """A repository whose feature_store.yaml names its database, and somebody who looks at that."""

    repo: Repo
    witness: Connection

    def candles(self) -> int:
        """Count the candles; all tables must be there."""
        (row,) = self.witness.execute(
            "SELECT count(*), (SELECT array_agg(name) FROM unnest(%s::text[]) AS t (name) "
            "WHERE to_regclass(name) IS NULL) FROM market.candles",
            [list(TABLES)],
        ).fetchall()
        assert row[1] is None, f"tables are gone: {row[1]}"
        return int(row[0])

    def rows(self) -> list[Any]:
        """Return what all tables hold, in short."""
        statement = "SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM {} AS t"
        return [self.witness.execute(statement.format(table).encode()).fetchone() for table in TABLES]


@pytest.fixture(scope="module")
def market(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """A market of all kinds of data, computed and online."""
    root, template = applied_repository
    name = f"featurectl_test_fuzz_{uuid.uuid4().hex[:12]}"
    repo = Repo(tmp_path_factory.mktemp("fuzz") / "market", create_database(server, name, template))
    shutil.copytree(root, repo.root)
    path = repo.root / "feature_store.yaml"
    document = yaml.safe_load(path.read_text().replace("${FEATURECTL_DATABASE_URL}", repo.url))
    # What can't be reached is tried once.
    document["featurectl"].update(database=repo.url, retry_for=0)
    path.write_text(yaml.safe_dump(document))
    minutes = [f"2024-01-03T12:{minute:02}:00Z" for minute in range(30)]
    files = {
        "candles_BTCUSDT_1h.csv": candles().decode(),
        "order-book/book_BTCUSDT.csv": "\n".join(
            ["time,bid,bid_size,ask,ask_size", *(f"{at},1,2,3,4" for at in minutes)]
        ),
        "trades/trades_BTCUSDT.csv": "\n".join(["id,time,price,size,side", *(f"{at},{at},1,2,buy" for at in minutes)]),
        "signals/news_sentiment.csv": "\n".join(["time,score", *(f"{at},0.5" for at in minutes)]),
    }
    for file, text in files.items():
        (repo.root / "inbox" / file).parent.mkdir(exist_ok=True)
        (repo.root / "inbox" / file).write_text(text)
        os.utime(repo.root / "inbox" / file, (0, 0))
    done = repo.run("run", env={"FEATURECTL_NOW": NOW})
    assert done.returncode == 0, done.stderr
    with repo.connect() as witness:
        yield Market(repo, witness)
    drop_database(server, name)


class Fuzz:
    """Tries cases, and keeps what is wrong with them."""

    def __init__(self, market: Market, caller: Caller) -> None:
        self.market, self.caller = market, caller
        self.wrong: list[str] = []

    def attempt(self, cases: Iterable[Case]) -> None:
        """Try cases; candles come and go with commands that bring them alone."""
        before = self.market.candles()
        for case in cases:
            outcome = self.caller.call(case)
            faults = list(outcome.faults(case))
            now = self.market.candles()
            if now != before and not any(set(one) <= set(case.words) for one in BRING_CANDLES):
                faults.append(f"{before} candles became {now}")
            before = now
            self.wrong += [f"{fault}: {case}\n    {outcome.stderr[-600:]!r}" for fault in faults]

    def conclude(self) -> None:
        shown = "\n".join(self.wrong[:40])
        assert not self.wrong, f"{len(self.wrong)} faults in {self.caller.cases} cases\n{shown}"
        print(f"{self.caller.cases} cases")


@pytest.fixture
def fuzz(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fuzz]:
    """A working directory with odd files in it, from which the repository is named by the environment."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    make_files(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FEATURECTL_REPO", str(market.repo.root))
    monkeypatch.setenv("FEATURECTL_NOW", NOW)
    fuzz = Fuzz(market, Caller(tmp_path, market.repo.root))
    yield fuzz
    fuzz.conclude()


def some(values: Sequence[str], count: int, *place: object) -> Sequence[str]:
    """Return so many of some values, always the same ones for a place; all of them in a large run."""
    return values if LARGE or len(values) <= count else random.Random(repr(place)).sample(values, count)


def plain(words: Words) -> Words:
    """Return a command with no more than it needs."""
    return (*words, *ARGUMENTS.get(words, ()), *OPTIONS.get(words, ()))


def with_parameter(words: Words, one: Parameter, given: Words) -> Case:
    """Return a command line in which a parameter is given, with what the command needs besides."""
    return Case((*plain(words), *given) if one.flag else (*words, *OPTIONS.get(words, ()), *given))


# --- the command line ------------------------------------------------------------------------------------------------


def cases_of(words: Words) -> Iterator[Case]:
    """Yield odd values for each parameter of a command, some of its kind and some of any."""
    known = parameters(words)
    for one in known:
        own, any_text = (1, 1) if one.is_common else (3, 2)
        for value in (*one.choices, *some(one.odd(), own, words, one.flag), *some(TEXT, any_text, words, one.flag)):
            yield with_parameter(words, one, one.words(value))
            if one.values > 1:
                yield with_parameter(words, one, one.words(value, "2024-01-02"))
        if one.flag and one.kind is Kind.FLAG:
            yield with_parameter(words, one, (one.flag, one.flag))
        elif one.flag and not one.is_common:
            yield with_parameter(words, one, (one.flag,))
            yield with_parameter(words, one, (f"{one.flag}=",))
    yield Case((*plain(words), *(one.flag for one in known if one.kind is Kind.FLAG)))
    yield Case((*plain(words), "--no-such-option"))
    yield Case((*plain(words), "--help", "--no-such-option"))
    yield Case((*words, *(["one", "two", "three"] * 3)))


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_odd_values_of_every_parameter(fuzz: Fuzz, market: Market, words: Words) -> None:
    before = market.rows()
    fuzz.attempt(cases_of(words))
    assert words in WRITERS or market.rows() == before


def test_odd_values_of_the_common_options_before_a_command(fuzz: Fuzz) -> None:
    common = [one for one in parameters(("views",)) if one.is_common]
    fuzz.attempt(
        Case((*one.words(value), "views")) for one in common for value in some((*one.odd(), *TEXT), 25, one.flag)
    )


@pytest.mark.parametrize("words", sorted(HEAVY), ids=" ".join)
def test_what_takes_seconds_refuses_odd_words_before_that(fuzz: Fuzz, words: Words) -> None:
    common = [one for one in parameters(words) if one.is_common and one.kind in (Kind.NUMBER, Kind.DIRECTORY)]
    options = [one for one in parameters(words) if one.flag in ("--format", "--output")]
    bad = [
        *(one.words(value) for one in common for value in ("nan", "-1", "in/missing", "in/loop", "in/d" * 3_000)),
        *(one.words(value) for one in options for value in ("x", "\x1b[2J", "out/loop/x.json", "out/x.xml")),
        ("--no-such-option",),
        ("--database-url", "postgresql://u:s3cret@127.0.0.1:1/d"),
        ("--database-url", "mysql://u@h/d"),
        ("--log-format", "xml"),
    ]
    if words == ("demo",):
        bad = [("in",), ("in/empty.csv",), ("/dev/null",), ("in/loop",), ("in/" + "n" * 300,), ("a", "b"), ("--nope",)]
    elif words == ("feast",):
        bad = [given for given in bad if given[0] not in ("--no-such-option", "--database-url")]
    fuzz.attempt(Case((*words, *given)) for given in bad)


def test_a_working_directory_that_is_gone(fuzz: Fuzz, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    for repo in ({}, {"FEATURECTL_REPO": ""}, {"FEATURECTL_REPO": "market"}):
        fuzz.attempt(Case(plain(words), repo) for words in LIGHT)


def test_there_are_hundreds_of_cases() -> None:
    assert sum(len(list(cases_of(words))) for words in LIGHT) > 1_500


# --- the environment -------------------------------------------------------------------------------------------------


def variables() -> list[str]:
    """Return the variables that the package reads."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((CHECKOUT / "featurectl").rglob("*.py")))
    return sorted(set(re.findall(r"\"(FEATURECTL_[A-Z_]+)\"", code)))


def odd_values(variable: str) -> Words:
    if variable.endswith("_NOW"):
        own: Words = tuple(f"{time}Z" for time in TIME) + TIME
    elif variable.endswith("_DATABASE_URL"):
        own = DATABASE
    elif variable.endswith("_REPO"):
        own = DIRECTORY
    else:
        own = NUMBER
    return (*own, *TEXT)


@pytest.mark.parametrize("variable", variables())
def test_odd_values_of_every_variable(fuzz: Fuzz, market: Market, variable: str) -> None:
    for index, value in enumerate(some(odd_values(variable), 20, variable)):
        # Each value with a few commands, so that a command meets many values.
        for words in [LIGHT[(index * 5 + step) % len(LIGHT)] for step in range(5 if LARGE else 1)]:
            fuzz.attempt([Case(plain(words), {variable: value})])


# --- settings --------------------------------------------------------------------------------------------------------


def settings() -> list[tuple[str, ...]]:
    """Return the places in feature_store.yaml that somebody may write something odd into."""
    own = ("featurectl",)
    places = [own, *((*own, name) for name in SETTINGS)]
    places += [(*own, "pipeline", one.name) for one in fields(Pipeline)]
    places += [(*own, "storage", "market.candles"), *((*own, "storage", "market.candles", key) for key in KEYS)]
    places += [(*own, "no_such"), (*own, "storage", "no.such"), (*own, "pipeline", "no_such"), ("pipeline",)]
    places += [("project",), ("registry",), ("online_store",), ("offline_store",), ("registry", "path")]
    places += [("registry", "registry_type"), ("registry", "sqlalchemy_config_kwargs")]
    places += [(store, key) for store in ("online_store", "offline_store") for key in ("type", "url", "db_schema")]
    return places


def with_setting(document: dict[str, Any], place: tuple[str, ...], value: str) -> str:
    """Return YAML in which the value at a place is this text, as it stands."""
    inner = document = yaml.safe_load(yaml.safe_dump(document))
    for name in place[:-1]:
        inner = inner.setdefault(name, {})
    inner[place[-1]] = "THE_VALUE"
    return yaml.safe_dump(document).replace("THE_VALUE", value)


@pytest.mark.parametrize("place", settings(), ids=".".join)
def test_odd_values_of_every_setting(fuzz: Fuzz, market: Market, tmp_path: Path, place: tuple[str, ...]) -> None:
    root = shutil.copytree(market.repo.root, tmp_path / "market")
    path = root / "feature_store.yaml"
    document = yaml.safe_load(path.read_text())
    for index, value in enumerate(some(YAML, 7, place)):
        path.write_text(with_setting(document, place, value), encoding="utf-8", errors="surrogateescape")
        commands = [LIGHT[(index * 3 + step) % len(LIGHT)] for step in range(3 if LARGE else 1)]
        for words in [("run",)] if "pipeline" in place else commands:
            before = len(fuzz.wrong)
            fuzz.attempt([Case(plain(words), {"FEATURECTL_REPO": str(root)})])
            fuzz.wrong[before:] = [f"{'.'.join(place)}: {value[:100]}\n  {one}" for one in fuzz.wrong[before:]]


# --- all together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(PARTS))
def test_random_command_lines(fuzz: Fuzz, part: int) -> None:
    seed = SEED or (uuid.uuid4().hex[:8] if LARGE else "featurectl")
    print(f"FEATURECTL_TEST_FUZZ={RANDOM}:{seed}")
    chance = random.Random(f"{seed} {part}")
    fuzz.attempt(random_case(chance, chance.choice(LIGHT), plain) for _ in range(RANDOM // PARTS))
    fuzz.wrong[:0] = [f"seed {seed}"] if fuzz.wrong else []
