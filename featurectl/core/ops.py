"""What cron, systemd and logrotate are told of a repository, and how each of them quotes a path."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from featurectl.errors import ConfigError

# systemd takes no quotes and no backslashes in the path of a program.
_PLAIN_PROGRAM = re.compile(r"[\w@%+=:,./ -]+")
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]*")


def facts(root: Path) -> dict[str, object]:
    """Return what the templates say of a repository's place: its root, featurectl's command, and who runs it there.

    Raises:
        ConfigError: a path holds what no crontab and no unit can.
    """
    command = find_command()
    for path in (str(root), *command):
        if _UNWRITABLE.search(path):
            raise ConfigError(f"{path!r} holds a line break or bytes that no crontab can hold; use another directory")
    uid, gid = _owner(root)
    return {"root": str(root), "command": command, "user": _user(uid), "group": _group(gid)}


def find_command() -> tuple[str, ...]:
    """Return the words that run this featurectl from anywhere: its console script, or Python and the module."""
    script = Path(sys.executable).with_name("featurectl")
    if script.is_file() and os.access(script, os.X_OK):
        return (str(script),)
    if found := shutil.which("featurectl"):
        return (os.path.abspath(found),)
    # -P: the repository, where it runs, is no place to import from.
    return (sys.executable, "-P", "-m", "featurectl")


def cron_word(text: str) -> str:
    """Quote a word of a crontab's command, for cron and then for its shell.

    ``%`` ends a command unless a backslash is before it. Some crons take that backslash away and some leave it to the
    shell, so it stands outside the quotes; and some halve two backslashes, so no two stand together.
    """
    parts = re.split(r"([%\\])", text)
    return "".join(r"\%" if part == "%" else shlex.quote(part) for part in parts if part) or "''"


def unit_path(text: str) -> str:
    """Write a path where systemd takes the rest of the line as it is, but for ``%``."""
    # A blank at the end would be cut off, and a backslash would join the next line.
    return text.replace("%", "%%") + ("/" if text.endswith((" ", "\\")) else "")


def unit_pattern(text: str) -> str:
    """Write a path where systemd takes the rest of the line for a pattern of file names."""
    return re.sub(r"([\\*?[])", r"\\\1", text).replace("%", "%%")


def unit_word(text: str) -> str:
    """Quote a word where systemd takes several."""
    escaped = text.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return escaped if re.fullmatch(r"[\w@%+=:,./-]+", escaped) else f'"{escaped}"'


def unit_command(words: Sequence[str]) -> str:
    """Write a command for ``ExecStart=``; a program whose path systemd does not take is left to the shell."""
    if not _PLAIN_PROGRAM.fullmatch(words[0]):
        words = ("/bin/sh", "-c", 'exec "$0" "$@"', *words)
    # Variables are replaced in arguments, and not in the path of the program.
    return " ".join([unit_word(words[0]), *(unit_word(word).replace("$", "$$") for word in words[1:])])


def logrotate_pattern(text: str) -> str:
    """Quote a path where logrotate takes a pattern of file names; between quotes a backslash escapes a quote only."""
    return re.sub(r"([\\*?[])", r"\\\1", text).replace('"', '\\"')


FILTERS: Mapping[str, Callable[..., str]] = {
    "cron_word": cron_word,
    "unit_path": unit_path,
    "unit_pattern": unit_pattern,
    "unit_word": unit_word,
    "unit_command": unit_command,
    "logrotate_pattern": logrotate_pattern,
}


def _owner(root: Path) -> tuple[int, int]:
    if not os.path.exists(root):  # also for a name that is too long for one
        return os.geteuid(), os.getegid()
    found = root.stat()
    return found.st_uid, found.st_gid


def _user(uid: int) -> str:
    import pwd

    try:
        return _plain(pwd.getpwuid(uid).pw_name, uid)
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    import grp

    try:
        return _plain(grp.getgrgid(gid).gr_name, gid)
    except KeyError:
        return str(gid)


def _plain(name: str, number: int) -> str:
    """Return a name, or its number where a directory service gave it blanks or backslashes."""
    return name if _PLAIN_NAME.fullmatch(name) else str(number)
