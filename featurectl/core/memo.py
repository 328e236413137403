"""What was worked out before, kept for whoever asks the same again."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V]):
    """At most ``most`` entries. One more, and it begins anew: what is asked again and again is soon there again."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, key: K, value: V) -> V:
        """Add an entry; return its value."""
        if len(self) >= self._most:
            self.clear()
        self[key] = value
        return value
