"""What was worked out before, kept for whoever asks the same again."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V]):
    """Entries of a size of ``most`` together; with more, it begins anew: what is asked again is soon there again."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._size = 0

    def keep(self, key: K, value: V, size: int = 1) -> V:
        """Add an entry, unless it is too large; return its value."""
        if self._size + size > self._most:
            self.clear()
        if size <= self._most:
            self[key] = value
            self._size += size
        return value

    def clear(self) -> None:
        super().clear()
        self._size = 0
