"""Entity ids and timeframes: ``BTCUSDT_1h`` is symbol ``BTCUSDT`` in timeframe ``1h``."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import timedelta

from featurectl.errors import InvalidEntityId

TIMEFRAMES: dict[str, timedelta] = {
    "1m": timedelta(minutes=1),
    "3m": timedelta(minutes=3),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "2h": timedelta(hours=2),
    "4h": timedelta(hours=4),
    "6h": timedelta(hours=6),
    "8h": timedelta(hours=8),
    "12h": timedelta(hours=12),
    "1d": timedelta(days=1),
    "3d": timedelta(days=3),
    "1w": timedelta(weeks=1),
}


# The symbol of what is said of the whole market, and so of every symbol.
MARKET = "*"


def length(timeframe: str) -> int:
    """Return the length of a bar in microseconds."""
    return TIMEFRAMES[timeframe] // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class EntityId:
    """A symbol in a timeframe, or a symbol alone, whose timeframe is empty; ``str()`` gives the id back."""

    symbol: str
    timeframe: str

    def __str__(self) -> str:
        return f"{self.symbol}_{self.timeframe}" if self.timeframe else self.symbol

    def means(self, entity: EntityId) -> bool:
        """Tell whether this id, or symbol, means an entity; any id of its symbol means one without a timeframe."""
        return self.symbol == entity.symbol and (not self.timeframe or not entity.timeframe or self == entity)


def parse_entity_id(text: str) -> EntityId:
    """Split ``<SYMBOL>_<timeframe>`` at the last underscore.

    Raises:
        InvalidEntityId: no underscore, an empty or blank symbol, or a timeframe that does not exist.
    """
    symbol, separator, timeframe = text.rpartition("_")
    if not separator or not symbol or any(character.isspace() or not character.isprintable() for character in symbol):
        raise InvalidEntityId(f"{text!r} is not an entity id; write <SYMBOL>_<timeframe>, for example BTCUSDT_1h")
    if timeframe not in TIMEFRAMES:
        near = difflib.get_close_matches(timeframe.lower(), TIMEFRAMES, n=1, cutoff=0.3)
        hint = f"; did you mean {symbol}_{near[0]}?" if near else ""
        raise InvalidEntityId(
            f"{text!r}: timeframe {timeframe!r} does not exist{hint}; timeframes: {' '.join(TIMEFRAMES)}"
        )
    return EntityId(symbol, timeframe)


def parse_id_or_symbol(text: str) -> EntityId:
    """Read an entity id, or a symbol alone: one word that does not end like an id, timeframe or not.

    Raises:
        InvalidEntityId: it is neither.
    """
    alone = text.isprintable() and re.fullmatch(r"\S+(?<!_)", text) and not re.search(r"_[0-9]+[a-zA-Z]*\Z", text)
    return EntityId(text, "") if alone else parse_entity_id(text)
