"""What cron, systemd and logrotate read is the path that was meant, whatever characters it has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from featurectl.core import ops
from featurectl.errors import ConfigError

ODD = [
    "/srv/market",
    "/srv/my market",
    "/srv/100%",
    '/srv/100% of it\'s "own"',
    r"/srv/a\%b",
    r"/srv/a\\%%b",
    "/srv/$HOME/`id`/$(id)",
    "/srv/[x]*?;&|#!~",
    "/srv/ümlaut",
]


def cronie(command: str) -> str:
    """Read a command as cronie, Debian's cron and Vixie's do: the backslash before a % goes, a bare % ends it."""
    return _unescaped(command, "%")


def freebsd(command: str) -> str:
    """Read a command as FreeBSD's cron does, which halves two backslashes, too."""
    return _unescaped(command, "%\\")


def early(command: str) -> str:
    """Read a command as early versions of Vixie's cron do: the shell gets the backslash."""
    return _unescaped(command, "")


def busybox(command: str) -> str:
    """Read a command as BusyBox does, to which % is nothing special."""
    return command


def _unescaped(command: str, escapable: str) -> str:
    read, escaped = "", False
    for character in command:
        if escaped and character in escapable:
            read = read[:-1]
        elif character == "%" and not escaped:
            return read
        escaped = character == "\\" and not escaped
        read += character
    return read


@pytest.mark.parametrize("cron", [cronie, freebsd, early, busybox])
@pytest.mark.parametrize("text", ODD)
def test_a_word_of_a_crontab_reaches_the_program_through_every_cron(text: str, cron: Callable[[str], str]) -> None:
    word = cron(ops.cron_word(text))
    shown = subprocess.run(["/bin/sh", "-c", f"printf '%s' {word}"], capture_output=True, text=True, check=True)
    assert shown.stdout == text


def test_an_unescaped_percent_sign_would_end_the_command() -> None:
    assert cronie("cd /srv/100%/x") == "cd /srv/100"


@pytest.mark.parametrize(
    ("write", "text", "written"),
    [
        (ops.unit_path, "/srv/my 100% \"own\" 'x'", "/srv/my 100%% \"own\" 'x'"),
        (ops.unit_path, "/srv/end ", "/srv/end /"),
        (ops.unit_path, "/srv/end\\", "/srv/end\\/"),
        (ops.unit_pattern, "/srv/[a]*? 1%", "/srv/\\[a]\\*\\? 1%%"),
        (ops.unit_word, "/srv/market", "/srv/market"),
        (ops.unit_word, "/srv/1%", "/srv/1%%"),
        (ops.unit_word, '/srv/my "own" a\\b', '"/srv/my \\"own\\" a\\\\b"'),
        (ops.logrotate_pattern, '/srv/"x" [a]', '/srv/\\"x\\" \\[a]'),
    ],
)
def test_a_path_is_written_as_its_reader_reads_it(write: Callable[[str], str], text: str, written: str) -> None:
    assert write(text) == written


def test_a_program_that_systemd_does_not_take_is_left_to_the_shell() -> None:
    assert ops.unit_command(("/srv/my venv/bin/featurectl", "a$b")) == '"/srv/my venv/bin/featurectl" "a$$b"'
    assert ops.unit_command(("/srv/it's/featurectl", "-C", ".")) == (
        '/bin/sh -c "exec \\"$$0\\" \\"$$@\\"" "/srv/it\'s/featurectl" -C .'
    )


@pytest.mark.parametrize("path", ["/srv/a\nb", "/srv/a\x7fb", "/srv/\udcff"])
def test_a_path_that_no_crontab_can_hold_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="no crontab can hold; use another directory"):
        ops.facts(Path(path))


def test_the_command_is_the_console_script_of_this_environment() -> None:
    (script,) = ops.find_command()
    assert script == str(Path(sys.executable).with_name("featurectl"))


def test_without_a_console_script_the_command_is_the_one_on_the_path_or_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ops.find_command() == (str(python), "-P", "-m", "featurectl")
    script = tmp_path / "featurectl"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert ops.find_command() == (str(script),)


def test_names_of_a_directory_service_become_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = ops.facts(tmp_path)
    assert (facts["user"], facts["group"]) == (tmp_path.owner(), tmp_path.group())
    assert ops._plain("domain users", 1002) == "1002"
