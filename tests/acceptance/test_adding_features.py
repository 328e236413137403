"""What README tells those who add a feature, or a view over a table of their own: each step, as it is written there."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fix_repository import CHECKOUT, Repo

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ADDING = README.partition("### Adding a feature")[2].partition("\n## ")[0]
NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", ADDING, re.DOTALL)


@pytest.fixture
def market(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """Sixty closed bars, computed and online."""
    monkeypatch.setenv("FEATURECTL_NOW", NOW.isoformat())
    lines = ["open_time,open,high,low,close,volume"]
    for number in range(60):
        price = 100 + number % 7
        at = NOW - timedelta(hours=60 - number)
        lines.append(f"{at.isoformat()},{price},{price + 2},{price - 2},{price + 1},{10 + number % 5}")
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input="\n".join(lines).encode())
    repo.ok("compute")
    repo.ok("materialize")
    return repo


def test_a_feature_is_a_function_and_a_field(market: Repo) -> None:
    function, *_ = blocks("python")
    field = re.search(r"`(Field\(name=.*?\))`", ADDING)
    assert field
    folder = market.root / "feature_repo"
    with (folder / "indicators.py").open("a", encoding="utf-8") as handle:
        handle.write(f"\n\n{function}")
    insert(folder / "technical_indicators.py", 'Field(name="atr"', f"{field[1]},")
    before = market.rows("SELECT created_timestamp, rsi_14 FROM features.technical_indicators ORDER BY event_timestamp")
    commands, *_ = blocks("console")
    for command in re.findall(r"^\$ featurectl (.*)$", commands, re.MULTILINE):
        market.ok(*command.split())
    name = re.findall(r"def (\w+)\(", function)[0]
    answer = market.json("get-online", "BTCUSDT_1h", "-f", name)
    high, low, close = 100 + 59 % 7 + 2, 100 + 59 % 7 - 2, 100 + 59 % 7 + 1
    assert answer["results"][0]["features"][name] == pytest.approx((high - low) / close)
    # No other feature was computed again, and training sets have the new one.
    after = market.rows("SELECT rsi_14 FROM features.technical_indicators ORDER BY event_timestamp")
    assert [row[1] for row in before] == [row[0] for row in after]
    assert market.rows(f"SELECT count({name}) FROM features.comprehensive_features") == [(60,)]
    assert market.json("compute")["series"][0]["stale_rows"] == 0


def test_a_view_over_a_table_of_ones_own(market: Repo) -> None:
    _, definitions, *_ = blocks("python")
    (statement,) = blocks("sql")
    with market.connect() as connection:
        connection.execute(statement.encode())
        connection.execute(
            b"INSERT INTO research.funding VALUES ('BTCUSDT', %s, %s, 0.0001), ('BTCUSDT', %s, %s, 0.0003)",
            (NOW - timedelta(hours=9), NOW, NOW - timedelta(hours=1), NOW),
        )
    (market.root / "feature_repo" / "funding.py").write_text(definitions, encoding="utf-8")
    *_, commands = blocks("console")
    for command in re.findall(r"^\$ featurectl (.*)$", commands, re.MULTILINE):
        market.ok(*command.split())
    answer = market.json("get-online", "BTCUSDT_1h", "-f", "funding_rate")
    assert answer["results"][0]["features"] == {"funding_rate": 0.0003}
    earlier = market.json(
        "get-online", "BTCUSDT", "-f", "funding_rate", "--as-of", (NOW - timedelta(hours=2)).isoformat()
    )
    assert earlier["results"][0]["features"] == {"funding_rate": 0.0001}


def insert(file: Path, before: str, line: str) -> None:
    """Put a line in front of another one of a file."""
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1
    file.write_text(text.replace(before, f"{line}\n        {before}"), encoding="utf-8")
