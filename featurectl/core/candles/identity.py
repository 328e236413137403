"""Find out which timeframe the candles have, from the argument, the column or the file's name."""

from __future__ import annotations

import re

import pyarrow.compute as pc

from featurectl.core.candles.filenames import timeframe_in_file_name
from featurectl.core.entity import TIMEFRAMES
from featurectl.core.tabular.labels import Labels, Texts, stated
from featurectl.errors import InputFileError


def normalize_timeframe(text: str) -> str | None:
    """Write a timeframe the house way: ``1H`` is 1h; None for an unknown one, among them ``1M``, the month."""
    text = text.strip()
    if text in TIMEFRAMES:
        return text
    if re.fullmatch(r"\d+M", text):
        return None
    return text.lower() if text.lower() in TIMEFRAMES else None


def resolve_timeframes(argument: str | None, texts: Texts) -> Labels | None:
    """Find every row's timeframe; None where only the spacing of the rows can tell.

    Raises:
        InputFileError: an unknown timeframe, or the argument contradicts the column.
    """
    labels = stated("timeframe", argument, texts, normalize_timeframe, _unknown(argument))
    if labels is not None:
        return labels
    unknown = _first_text(texts)
    if unknown:
        raise InputFileError(f"{texts.file}: column '{texts.name}': {_unknown(unknown)}")
    return _timeframe_from_name(texts)


def _timeframe_from_name(texts: Texts) -> Labels | None:
    found = None if texts.file == "-" else timeframe_in_file_name(texts.file)
    if found is None:
        return None
    timeframe = normalize_timeframe(found)
    if timeframe is None:
        raise InputFileError(f"{texts.file}: {_unknown(found)}; if the file name is wrong, give --timeframe")
    return Labels.same(timeframe, texts.rows)


def _unknown(timeframe: str | None) -> str:
    month = " (M is month, m is minute)" if re.fullmatch(r"\s*\d+M\s*", timeframe or "") else ""
    return f"timeframe '{timeframe}' does not exist{month}; timeframes: {' '.join(TIMEFRAMES)}"


def _first_text(texts: Texts) -> str | None:
    if texts.column is None:
        return None
    distinct = pc.unique(texts.column.fill_null("")).to_pylist()
    return next((text for text in distinct if text.strip().lower() not in {"", "null", "none", "nan"}), None)
