"""Entity ids."""

import pytest

from featurectl.core.entity import TIMEFRAMES, EntityId, parse_entity_id
from featurectl.errors import InvalidEntityId


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_an_id_splits_at_its_last_underscore_and_joins_again(timeframe: str) -> None:
    entity = parse_entity_id(f"BTC_USDT_{timeframe}")
    assert entity == EntityId("BTC_USDT", timeframe)
    assert str(entity) == f"BTC_USDT_{timeframe}"


@pytest.mark.parametrize("text", ["", "BTCUSDT", "_1h", " _1h", "BTC USDT_1h", "BTC\nUSDT_1h", "BTC\x00_1h"])
def test_what_is_no_id_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidEntityId, match=r"write <SYMBOL>_<timeframe>, for example BTCUSDT_1h"):
        parse_entity_id(text)


@pytest.mark.parametrize("text", ["BTC\n_1h", "BTC_1h\n", "BTC\x1b[31m"])
def test_an_id_is_shown_in_one_line_whatever_it_holds(text: str) -> None:
    with pytest.raises(InvalidEntityId) as caught:
        parse_entity_id(text)
    assert str(caught.value).isprintable() and repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"), [("BTCUSDT_1H", "BTCUSDT_1h"), ("BTCUSDT_60m", "BTCUSDT_"), ("BTCUSDT_2hour", "_2h")]
)
def test_a_timeframe_that_is_none_gets_a_suggestion_and_the_list(text: str, meant: str) -> None:
    with pytest.raises(InvalidEntityId, match="does not exist") as caught:
        parse_entity_id(text)
    assert meant in str(caught.value)
    assert "1m 3m 5m" in str(caught.value)
