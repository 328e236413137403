"""Keep passwords out of the process list, where every user of the machine reads the arguments of programs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from urllib.parse import unquote

_OPTION = "--database-url"
_VARIABLE = "FEATURECTL_DATABASE_URL"


def hide_password() -> None:
    """Start this program again with the database's URL in its environment, where it is an argument with a password.

    The option wins over the variable, and so takes its place.
    """
    url, words = without_url(sys.argv[1:])
    before = len(sys.orig_argv) - len(sys.argv) + 1
    if url is None or sys.orig_argv[before:] != sys.argv[1:]:
        return
    # Whatever Python was told, and what it runs: a script, -m or -c.
    command = [sys.executable, *sys.orig_argv[1:before], *words]
    with contextlib.suppress(OSError):
        os.execve(sys.executable, command, {**os.environ, _VARIABLE: url})


def without_url(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the database's URL, if any that is given holds a password, and the words without those of the option.

    Of several the last counts. What is behind ``--`` is another program's.
    """
    end = words.index("--") if "--" in words else len(words)
    ours, urls, rest = list(words[:end]), [], []
    while ours:
        word = ours.pop(0)
        if word == _OPTION and ours:
            urls.append(ours.pop(0))
        elif word.startswith(f"{_OPTION}="):
            urls.append(word.removeprefix(f"{_OPTION}="))
        else:
            rest.append(word)
    # An empty one is refused, which is said where all words are looked at.
    if not all(urls) or not any(map(_holds_password, urls)):
        return None, list(words)
    return urls[-1], [*rest, *words[end:]]


def _holds_password(url: str) -> bool:
    before_host = (url.partition("://")[2] or url).rpartition("@")[0]
    return ":" in before_host or "password" in unquote(url).lower()
