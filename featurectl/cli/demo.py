"""``featurectl demo``: the main job, command by command, on a synthetic market."""

from __future__ import annotations

import os
import shlex
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from featurectl.cli import diagnostics, output
from featurectl.cli.app import new_app, run
from featurectl.cli.options import Command
from featurectl.core.clock import system_clock
from featurectl.core.synthetic import MarketFiles, write_market
from featurectl.errors import NotAllowed

app = new_app()

_MARK = ".featurectl-demo"


@app.command("demo", cls=Command)
def demo(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where; a directory of an earlier demo is used again.")
    ] = Path("featurectl-demo"),
) -> None:
    """Take a synthetic market through the main job.

    It is made up to now, in a repository of its own: three symbols in three timeframes, with a gap, a bad tick and
    a late bar, and order books, trades and scores of their sentiment. Every step is a command you can run yourself;
    its output is what you would see. Nothing is real but the software.

    Example: featurectl demo
    """
    started, now = time.monotonic(), system_clock()
    _prepare(directory)
    files = write_market(directory / "data", now=now)
    for title, words in _steps(directory, files, now):
        _take(directory, title, words)
    output.write(
        f"\nDone in {time.monotonic() - started:.0f} s. The market above is synthetic.\n"
        f"Go on in it:   cd {directory} && featurectl doctor\n"
        "Or with yours: featurectl init market && cd market && featurectl apply && featurectl ingest candles FILE\n"
        f"Stop its database: featurectl -C {directory} db stop\n"
    )


def _prepare(directory: Path) -> None:
    if os.path.exists(directory / _MARK):
        return
    if os.path.exists(directory) and (not directory.is_dir() or any(directory.iterdir())):
        raise NotAllowed(f"{directory} is there and is not an earlier demo's; name another: featurectl demo DIR")
    _take(directory, "Make a repository", ["init", str(directory), "--project", "demo"], at=None)
    (directory / _MARK).write_text("made by featurectl demo\n", encoding="utf-8")


def _steps(directory: Path, files: MarketFiles, now: datetime) -> list[tuple[str, list[str]]]:
    names = [str(path) for path in files.series]
    entities = ["BTCUSDT_1h", "ETHUSDT_1h", "SOLUSDT_1h"]
    window = ["--start", "-2d", "--end", "now"]
    target = ["--target", "forward_return:4", "-o", str(directory / "train.parquet")]
    return [
        ("Definitions to registry, tables and catalog", ["apply"]),
        (
            f"Candle files into the database; {files.gap} has a gap, {files.bad_tick} a bad tick, each an open bar",
            ["ingest", "candles", *names, "--rejects", str(directory / "rejects.csv")],
        ),
        ("Order books, one of them crossed once", ["ingest", "order-book", *map(str, files.books)]),
        ("Trades", ["ingest", "trades", *map(str, files.trades)]),
        ("Scores of symbols and of the whole market", ["ingest", "signals", *map(str, files.scores)]),
        ("Features of all closed bars, of books and trades, and of scores", ["compute"]),
        ("The newest features online", ["materialize"]),
        ("A bar arrives late", ["ingest", "candles", str(files.late), "--symbol", "BTCUSDT", "--timeframe", "1h"]),
        ("Only what it influences is computed again", ["compute"]),
        ("And brought online", ["materialize"]),
        ("Online features of one entity", ["get-online", "BTCUSDT_1h"]),
        ("Of several", ["get-online", *entities, "-f", "rsi_14,bid_ask_spread,news_sentiment"]),
        (
            "A training set, point-in-time correct, with what became of the price",
            ["get-offline", *entities, "--service", "comprehensive_training_service", *window, *target],
        ),
        ("A look into it", ["get-offline", "SOLUSDT_1h", "--start", "-8h", "--end", "now", "-f", "rsi_14,macd,ema_20"]),
    ]


def _take(directory: Path, title: str, words: list[str], *, at: Path | None = Path()) -> None:
    """Run one command as a user would and show it; a file list is shown by its first names."""
    shown = words if len(words) < 10 else [*words[:4], "…", *words[-2:]]
    output.write(f"\n# {title}\n$ featurectl {shlex.join(shown).replace(chr(39) + '…' + chr(39), '…')}\n")
    where = ["-C", str(directory)] if at is not None else []
    quiet = ["--quiet"] if diagnostics.quiet else []
    table = [] if "-o" in words else ["--format", "table"]
    code = run([*where, *words, *table, *quiet])
    if code:
        raise typer.Exit(code)  # the step has said why
