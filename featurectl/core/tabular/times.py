"""Read times as microseconds since 1970 UTC: epochs in any unit, told value by value, and ISO dates."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurectl.core.tabular.arrays import Bools, Floats, Ints, plain
from featurectl.core.tabular.numbers import NUMBER
from featurectl.core.times import from_microseconds, iso

DAY = 86_400_000_000
EARLIEST = 946_684_800_000_000  # 2000-01-01: before it there was no data this tool is for, only misread units
# 1e11 s is the year 5138; 1e11 ms is 1973. So for the years in between the magnitude tells the unit.
SECONDS_BELOW, MILLISECONDS_BELOW, MICROSECONDS_BELOW = 10**11, 10**14, 10**17
LARGEST_EPOCH = 9.2e18
# "2017-08-17 05-AM", CryptoDataDownload's older files.
TWELVE_HOUR_CLOCK = r"^(?P<day>\d{4}-\d{2}-\d{2})[ T](?P<hour>0[1-9]|1[0-2])-(?P<half>AM|PM)$"

ISO_DATE = (
    r"^(?P<year>\d{4})[-/.](?P<month>\d{2})[-/.](?P<day>\d{2})"
    r"(?:[Tt ]+(?P<hour>\d{2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d{1,9}))?)?)?"
    r"(?:[Zz]|\s*(?P<sign>[+-])(?P<zone_hour>\d{2}):?(?P<zone_minute>\d{2})?)?)?$"
)
ISO_PARTS = ("year", "month", "day", "hour", "minute", "second", "zone_hour", "zone_minute")


@dataclass(frozen=True)
class Times:
    """Instants in microseconds since 1970 UTC; where ``known`` is false the value says nothing."""

    microseconds: Ints
    known: Bools

    @classmethod
    def none(cls, count: int) -> Times:
        """Give ``count`` instants, none of them known."""
        return cls(np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool))

    def put(self, where: Bools, found: Times) -> None:
        """Set the instants at ``where``, which is how readers of one format each add their part."""
        self.microseconds[where] = found.microseconds
        self.known[where] = found.known


def show_time(microseconds: int) -> str:
    """Write an instant for a message: 2021-04-04T20:00:00Z."""
    try:
        return iso(from_microseconds(microseconds))
    except OverflowError:
        # Before the year 1 or after 9999: a misread unit, which the number itself shows best.
        return f"{microseconds} microseconds since 1970"


def read_times(column: pa.ChunkedArray) -> Times:
    """Read a column of strings, numbers, dates or timestamps; an instant without a zone is UTC.

    Raises:
        TypeError: the column has a type that holds no times.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_string(kind):
        return _from_strings(column)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        # The stored instant is UTC with a zone and read as UTC without one, so the zone itself does not matter.
        return _from_arrow(column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False))
    if pa.types.is_integer(kind):
        known = column.is_valid().to_numpy(zero_copy_only=False)
        return _from_integers(column.fill_null(0).cast(pa.int64(), safe=False).to_numpy(), known)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _from_floats(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    raise TypeError(f"{kind} holds no times")


def _from_arrow(stamps: Any) -> Times:
    known = stamps.is_valid().to_numpy(zero_copy_only=False)
    return Times(stamps.cast(pa.int64()).fill_null(0).to_numpy().copy(), known)


def _from_integers(values: Ints, known: Bools) -> Times:
    size = np.abs(values)
    scaled = np.where(size < SECONDS_BELOW, values, 0) * 1_000_000
    scaled = np.where((size >= SECONDS_BELOW) & (size < MILLISECONDS_BELOW), values * 1_000, scaled)
    scaled = np.where((size >= MILLISECONDS_BELOW) & (size < MICROSECONDS_BELOW), values, scaled)
    return Times(np.where(size >= MICROSECONDS_BELOW, values // 1_000, scaled), known.copy())


def _from_floats(values: Floats) -> Times:
    known = np.isfinite(values) & (np.abs(np.nan_to_num(values)) < LARGEST_EPOCH)
    values = np.where(known, values, 0.0)
    size = np.abs(values)
    factor = np.select(
        [size < SECONDS_BELOW, size < MILLISECONDS_BELOW, size < MICROSECONDS_BELOW], [1e6, 1e3, 1.0], 1e-3
    )
    return Times(np.rint(values * factor).astype(np.int64), known)


def _from_strings(column: pa.ChunkedArray) -> Times:
    text = pc.utf8_trim_whitespace(column.fill_null("").combine_chunks())
    alike = _all_alike(text)
    if alike is not None:
        return alike
    found = Times.none(len(text))
    whole = _matches(text, r"^[+-]?\d{1,18}$")
    numeric = _matches(text, NUMBER) & ~whole
    _put(found, text, whole, _whole_epochs)
    _put(found, text, numeric, _fractional_epochs)
    twelve_hour = _matches(text, TWELVE_HOUR_CLOCK)
    _put(found, text, twelve_hour, _twelve_hour_clock)
    dates = ~(whole | numeric | twelve_hour)
    _put(found, text, dates, _iso_dates)
    return found


def _all_alike(text: Any) -> Times | None:
    """Read a column that holds nothing but whole numbers, or nothing but dates of one form, as most do."""
    with contextlib.suppress(pa.ArrowInvalid):
        return _from_integers(text.cast(pa.int64()).to_numpy(), np.ones(len(text), dtype=bool))
    for zone in (None, "UTC"):
        with contextlib.suppress(pa.ArrowInvalid):
            return _from_arrow(text.cast(pa.timestamp("us", zone)))
    return None


def _matches(text: Any, pattern: str) -> Bools:
    matches: Bools = pc.match_substring_regex(text, pattern).to_numpy(zero_copy_only=False)
    return matches


def _put(found: Times, text: Any, where: Bools, read: Any) -> None:
    if where.all():
        found.put(where, read(text))
    elif where.any():
        found.put(where, read(text.filter(pa.array(where))))


def _whole_epochs(text: Any) -> Times:
    values = pc.utf8_ltrim(text, "+").cast(pa.int64()).to_numpy()
    return _from_integers(values, np.ones(len(values), dtype=bool))


def _fractional_epochs(text: Any) -> Times:
    return _from_floats(text.cast(pa.float64()).to_numpy())


def _twelve_hour_clock(text: Any) -> Times:
    parts = pc.extract_regex(text, TWELVE_HOUR_CLOCK)
    days = _iso_dates(pc.struct_field(parts, "day"))
    hours = pc.struct_field(parts, "hour").cast(pa.int64()).to_numpy() % 12
    afternoon = pc.equal(pc.struct_field(parts, "half"), "PM").to_numpy(zero_copy_only=False)
    return Times(days.microseconds + (hours + 12 * afternoon) * 3_600_000_000, days.known)


def _iso_dates(text: Any) -> Times:
    text = pc.replace_substring_regex(text, r"\s*UTC$", "Z")
    for zone in (None, "UTC"):
        try:
            return _from_arrow(text.cast(pa.timestamp("us", zone)))
        except pa.ArrowInvalid:
            # Arrow reads only columns that are alike throughout: all with a zone or all without, and all valid.
            continue
    return _mixed_iso_dates(text)


def _mixed_iso_dates(text: Any) -> Times:
    """Read dates one by one, so that a bad one spoils no other and each may have a zone of its own."""
    parts = pc.extract_regex(text, ISO_DATE)
    known = parts.is_valid().to_numpy(zero_copy_only=False)
    year, month, day, hour, minute, second, zone_hour, zone_minute = (
        _integers(pc.struct_field(parts, part)) for part in ISO_PARTS
    )
    months = np.clip((year - 1970) * 12 + month - 1, -(10**5), 10**5).astype("datetime64[M]")
    first_day = months.astype("datetime64[D]").astype(np.int64)
    days_in_month = (months + 1).astype("datetime64[D]").astype(np.int64) - first_day
    known = known & (month >= 1) & (month <= 12) & (day >= 1) & (day <= days_in_month)
    known = known & (hour < 24) & (minute < 60) & (second < 60) & (zone_hour < 24) & (zone_minute < 60)
    west = pc.equal(pc.struct_field(parts, "sign"), "-").fill_null(False).to_numpy(zero_copy_only=False)
    offset = (zone_hour * 60 + zone_minute) * np.where(west, -1, 1)
    minutes = ((first_day + day - 1) * 24 + hour) * 60 + minute - offset
    fraction = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.struct_field(parts, "fraction"), 6, "0"), 0, 6)
    return Times(np.where(known, (minutes * 60 + second) * 1_000_000 + _integers(fraction), 0), known)


def _integers(text: Any) -> Ints:
    filled = pc.if_else(pc.equal(text, ""), "0", text).fill_null("0")
    values: Ints = filled.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return values
