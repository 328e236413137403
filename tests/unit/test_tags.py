"""What the tags of computed views may say."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from featurectl.core import tags
from featurectl.core.catalog import Field, View
from featurectl.errors import DefinitionError


def field(**own: str) -> Field:
    return Field("mood", "Float64", "double precision", "mood", "", own)


def view(computed_from: str, *fields: Field, **own: str) -> View:
    table = "features.moods"
    return View(
        "moods", ("symbol",), 0, True, table, None, "t", None, None, computed_from, "m.py", None, "", own, fields
    )


def test_what_is_not_said_has_a_default() -> None:
    assert tags.timeframes(view("ticks")) == ("1m", "5m", "15m", "1h")
    assert tags.aggregate(field()) == "mean"
    assert tags.validity(field()) == timedelta(hours=2)
    assert tags.score_range(field()) == (-math.inf, math.inf)


def test_what_is_said_counts() -> None:
    assert tags.timeframes(view("ticks", timeframes="1w, 1m,5m,1m")) == ("1m", "5m", "1w")
    assert tags.aggregate(field(aggregate="max")) == "max"
    assert tags.validity(field(validity="36h")) == timedelta(hours=36)
    assert tags.score_range(field(min="-1", max="1e2")) == (-1.0, 100.0)
    assert tags.score_range(field(min="0")) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("computed", "message"),
    [
        (view("ticks", timeframes="1m,2m"), "timeframes=2m does not exist; choices: 1m, 3m"),
        (view("ticks", timeframes=""), "timeframes= does not exist"),
        (view("ticks", field(aggregate="median")), "field 'mood' has aggregate=median; choices: mean, sum, min, max"),
        (view("signals", field(validity="soon")), "field 'mood' has validity=soon: 'soon' is not a duration"),
        (view("signals", field(validity="0m")), "field 'mood' has validity=0m; give 1m to 36500d"),
        (view("signals", field(validity="999999y")), "field 'mood' has validity=999999y"),
        (view("signals", field(validity="101y")), "field 'mood' has validity=101y; give 1m to 36500d"),
        (view("signals", field(min="low")), "field 'mood' has min=low; write a number"),
        (view("signals", field(max="inf")), "field 'mood' has max=inf; write a number"),
        (view("signals", field(min="1", max="-1")), "field 'mood' has min=1 above max=-1; swap them"),
    ],
)
def test_what_can_not_be_meant_is_refused(computed: View, message: str) -> None:
    with pytest.raises(DefinitionError) as error:
        tags.check(computed)
    assert str(error.value).startswith(message)


def test_tags_of_other_views_are_their_authors() -> None:
    odd = field(aggregate="median", validity="soon", min="low")
    tags.check(view("candles", odd, timeframes="2m"))
    tags.check(view("signals", field(aggregate="median"), timeframes="2m"))
    tags.check(view("ticks", field(validity="soon", min="low")))
