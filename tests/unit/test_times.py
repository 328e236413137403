"""Instants and windows as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from featurectl.core.times import duration, iso, parse_time, parse_window
from featurectl.errors import InvalidTime

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("-7d", NOW - timedelta(days=7)),
        ("now-90m", NOW - timedelta(minutes=90)),
        ("+1.5h", NOW + timedelta(hours=1.5)),
        ("2024-05-01", datetime(2024, 5, 1, tzinfo=UTC)),
        ("2024-05-01T10:00", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("2024-05-01T10:00:00.5Z", datetime(2024, 5, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-05-01T10:00+05:30", datetime(2024, 5, 1, 4, 30, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_utc(text: str, expected: datetime) -> None:
    assert parse_time(text, now=NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "7d ago", "2024-13-01", "-1e9d", "-999999999999d", "12:00", "1714564800x"]
)
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidTime, match="is not a time; write ISO 8601"):
        parse_time(text, now=NOW)


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidTime, match=r"starts .* after it ends"):
        parse_window("now", "-1d", now=NOW)


def test_a_window_may_be_one_instant() -> None:
    window = parse_window("now", "now", now=NOW)
    assert window.start == window.end == NOW


def test_instants_are_written_with_a_z() -> None:
    assert iso(NOW) == "2024-05-01T12:00:00Z"
    assert iso(NOW + timedelta(microseconds=1)) == "2024-05-01T12:00:00.000001Z"


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=45), "45s"),
        (timedelta(hours=1), "1h"),
        (timedelta(days=2, hours=3, minutes=4), "2d 3h"),
        (timedelta(days=1, seconds=5), "1d 5s"),
    ],
)
def test_spans_are_written_with_two_units_at_most(span: timedelta, text: str) -> None:
    assert duration(span) == text
