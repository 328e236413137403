"""Standard input that can be interrupted at any moment."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import BinaryIO

# Python hears of a signal that comes just before a blocking read only when that has returned.
_SECONDS_BETWEEN_LOOKS = 0.2


class _Pipe(io.RawIOBase):
    """What comes in at a file descriptor; it is left open."""

    def __init__(self, number: int) -> None:
        self._number = number

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not select.select([self._number], [], [], _SECONDS_BETWEEN_LOOKS)[0]:
            pass
        content = os.read(self._number, len(buffer))
        buffer[: len(content)] = content
        return len(content)


def interruptible_stdin() -> BinaryIO:
    """Return standard input as bytes; what reads it hears of signals while it waits."""
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):
        return sys.stdin.buffer
    # typeshed wants a raw stream that knows its name.
    return io.BufferedReader(_Pipe(number), 1 << 16)  # type: ignore[type-var]
