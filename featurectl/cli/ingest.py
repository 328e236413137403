"""``featurectl ingest``: market data files into the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from featurectl.cli import candle_report, tick_report
from featurectl.cli.app import new_app
from featurectl.cli.ingested import FilesArgument, RejectsOption, SymbolOption, conclude, ingest_files
from featurectl.cli.options import FormatOption, JsonOption, OutputOption, chosen, overrides, split
from featurectl.cli.published import published_catalog
from featurectl.cli.stdin import interruptible_stdin
from featurectl.cli.writers import DryRunOption, Writer, run_settings
from featurectl.core.clock import system_clock
from featurectl.core.db import Connection, open_database
from featurectl.core.inbox import written_at
from featurectl.core.times import iso, parse_time
from featurectl.errors import UsageError

if TYPE_CHECKING:
    from featurectl.core.candles import CandleFile
    from featurectl.core.ingest import Merged
    from featurectl.core.ingest_ticks import MergedTicks
    from featurectl.core.ticks import TickFile

app = new_app(help="Read market data files into the database.")


@app.callback()
def ingest() -> None:
    """Read market data files into the database."""


@app.command("candles", cls=Writer)
def candles(
    context: typer.Context,
    files: FilesArgument,
    symbol: SymbolOption = None,
    timeframe: Annotated[
        str | None, typer.Option("--timeframe", metavar="NAME", help="The timeframe, where no column says it.")
    ] = None,
    rejects: RejectsOption = None,
    closed_before: Annotated[
        str | None,
        typer.Option(
            "--closed-before",
            metavar="TIME",
            help="Refuse bars still open at TIME. Default: now, and when the file was written.",
        ),
    ] = None,
    drop_last: Annotated[
        bool, typer.Option("--drop-last", help="Leave out each file's newest bar, open when it was downloaded.")
    ] = False,
    dry_run: DryRunOption = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Read candle files: generic headers, Binance klines, CryptoDataDownload, freqtrade and ccxt.

    Symbol and timeframe come from the options, the columns or the file's name. A file is written whole or not at
    all; reading it again changes nothing. A bar that was open when the file was written is left out.
    --closed-before is ISO 8601 (UTC without a zone) or relative: -2h.

    Example: featurectl ingest candles BTCUSDT_1h.csv.gz --drop-last --rejects rejects.csv
    """
    now = system_clock()
    limit = parse_time(closed_before, now=now) if closed_before else now
    if limit > now:
        raise UsageError(
            f"--closed-before {iso(limit)} is in the future: bars that close later than now are still open"
        )
    from featurectl.core.candles import read_candles  # 0.3 s: it reads with Arrow
    from featurectl.core.ingest import merge_candles

    def read(name: str) -> CandleFile:
        return read_candles(
            _source(name),
            name=name,
            symbol=symbol,
            timeframe=timeframe,
            closed_before=limit,
            written_at=None if closed_before else written_at(name),
            drop_last=drop_last,
        )

    def write(connection: Connection, file: CandleFile) -> Sequence[Merged]:
        return merge_candles(connection, file, now=now)

    settings = run_settings(context, dry_run=dry_run)
    results = ingest_files(open_database(overrides(context)), settings, files, read, write, now=now)
    conclude(results, candle_report.report(results), candle_report.notes, chosen(format, json), path, rejects, dry_run)


@app.command("order-book", cls=Writer)
def order_book(
    context: typer.Context,
    files: FilesArgument,
    symbol: SymbolOption = None,
    levels: Annotated[
        int, typer.Option("--levels", min=1, metavar="N", help="Sum the sizes of N levels of a depth snapshot.")
    ] = 1,
    rejects: RejectsOption = None,
    dry_run: DryRunOption = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Read best bids and asks: generic headers, Binance book tickers, Tardis quotes, depth snapshots.

    The symbol comes from the option, a column or the file's name. Of several updates of one instant the last one
    counts. A file is written whole or not at all; reading it again changes nothing.

    Example: featurectl ingest order-book BTCUSDT_book_ticker.csv.gz --rejects rejects.csv
    """
    from featurectl.core.ingest_ticks import ORDER_BOOK, merge_ticks  # 0.3 s: they read with Arrow
    from featurectl.core.ticks import read_order_book

    now = system_clock()

    def read(name: str) -> TickFile:
        return read_order_book(_source(name), name=name, symbol=symbol, now=now, levels=levels)

    def write(connection: Connection, file: TickFile) -> Sequence[MergedTicks]:
        return merge_ticks(connection, ORDER_BOOK, file, now=now)

    settings = run_settings(context, dry_run=dry_run)
    results = ingest_files(open_database(overrides(context)), settings, files, read, write, now=now)
    report = tick_report.report("order-book", results)
    conclude(results, report, tick_report.notes, chosen(format, json), path, rejects, dry_run)


@app.command("trades", cls=Writer)
def trades(
    context: typer.Context,
    files: FilesArgument,
    symbol: SymbolOption = None,
    rejects: RejectsOption = None,
    dry_run: DryRunOption = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Read trades: generic headers, Binance trades and aggTrades with and without header, ccxt, Tardis.

    The symbol comes from the option, a column or the file's name. The side is the aggressor's. A file is written
    whole or not at all; reading it again changes nothing.

    Example: featurectl ingest trades BTCUSDT_trades.csv.gz --rejects rejects.csv
    """
    from featurectl.core.ingest_ticks import TRADES, merge_ticks  # 0.3 s: they read with Arrow
    from featurectl.core.ticks import read_trades

    now = system_clock()

    def read(name: str) -> TickFile:
        return read_trades(_source(name), name=name, symbol=symbol, now=now)

    def write(connection: Connection, file: TickFile) -> Sequence[MergedTicks]:
        return merge_ticks(connection, TRADES, file, now=now)

    settings = run_settings(context, dry_run=dry_run)
    results = ingest_files(open_database(overrides(context)), settings, files, read, write, now=now)
    report = tick_report.report("trades", results)
    conclude(results, report, tick_report.notes, chosen(format, json), path, rejects, dry_run)


@app.command("signals", cls=Writer)
def signals(
    context: typer.Context,
    files: FilesArgument,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="The signal; or, comma-separated, columns that hold one signal each."
        ),
    ] = None,
    symbol: Annotated[
        str | None,
        typer.Option("--symbol", metavar="NAME", help="The symbol, where no column says it. Default: *, the market."),
    ] = None,
    rejects: RejectsOption = None,
    dry_run: DryRunOption = False,
    format: FormatOption = None,
    json: JsonOption = False,
    path: OutputOption = None,
) -> None:
    """Read scores by time: of one symbol, of several by a column, or of the whole market (symbol *).

    The signal's name comes from the option, a column or the file's name. Scores outside the range that the
    definitions declare (field tags min and max) are rejected. A file is written whole or not at all.

    Example: featurectl ingest signals fear_greed_index.csv
    """
    from featurectl.core.ingest_ticks import SIGNALS, declared_ranges, merge_ticks  # 0.3 s: they read with Arrow
    from featurectl.core.ticks import read_signals

    now, database, chosen_names = system_clock(), open_database(overrides(context)), split(names)
    with database.connect() as connection:
        ranges = declared_ranges(published_catalog(database, connection, writes=True))

    def read(name: str) -> TickFile:
        return read_signals(_source(name), name=name, symbol=symbol, signals=chosen_names, ranges=ranges, now=now)

    def write(connection: Connection, file: TickFile) -> Sequence[MergedTicks]:
        return merge_ticks(connection, SIGNALS, file, now=now)

    settings = run_settings(context, dry_run=dry_run)
    results = ingest_files(database, settings, files, read, write, now=now)
    report = tick_report.report("signals", results)
    conclude(results, report, tick_report.notes, chosen(format, json), path, rejects, dry_run)


def _source(name: str) -> str | BinaryIO:
    return interruptible_stdin() if name == "-" else name
