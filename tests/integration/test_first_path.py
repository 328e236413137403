"""Candles in, features out: the whole path on one database."""

from __future__ import annotations

from tests.fix_repository import Repo


def candles(count: int = 60, start: str = "2024-01-01") -> bytes:
    import datetime

    first = datetime.datetime.fromisoformat(start)
    lines = ["open_time,open,high,low,close,volume"]
    for index in range(count):
        price = 100 + (index * 7) % 13
        lines.append(
            f"{first + datetime.timedelta(hours=index)},{price},{price + 2},{price - 2},{price + 1},{10 + index % 5}"
        )
    return "\n".join(lines).encode()


def written(repo: Repo) -> int:
    """Materialize; return how many online rows of the technical indicators were written."""
    views = repo.json("materialize")["views"]
    return next(int(view["written"]) for view in views if view["view"] == "technical_indicators_view")


def test_candles_become_online_features(repo: Repo) -> None:
    done = repo.json("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    assert done["files"][0]["series"][0]["new"] == 60
    assert repo.json("compute")["series"][0]["inserted"] == 60
    assert written(repo) == 1
    answer = repo.json("get-online", "BTCUSDT_1h", "--as-of", "2024-01-03T12:30:00Z")
    assert answer["results"][0]["statuses"]["rsi_14"] == "PRESENT"
    assert answer["results"][0]["views"]["technical_indicators_view"]["source"] == "online"


def test_running_again_changes_nothing(repo: Repo) -> None:
    repo.ok("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    repo.ok("compute")
    repo.ok("materialize")
    again = repo.json("ingest", "candles", "-", "--symbol", "BTCUSDT", "--timeframe", "1h", input=candles())
    series = again["files"][0]["series"][0]
    assert (series["new"], series["changed"], series["unchanged"]) == (0, 0, 60)
    assert repo.json("compute")["series"][0]["stale_rows"] == 0
    assert written(repo) == 0
