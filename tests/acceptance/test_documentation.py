"""The documentation runs: README's first run, command by command, and help with an example for every command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from featurectl.cli.app import COMMANDS, app
from featurectl.core import embedded
from tests.fix_repository import CHECKOUT, DATA, SCRIPT, needs_data

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
FIRST_RUN = README.partition("## First run")[2].partition("\n## ")[0]


def leaves() -> Iterator[tuple[str, ...]]:
    root = typer.main.get_command(app)
    for name, entry in COMMANDS.items():
        command = root.get_command(None, name)  # type: ignore[attr-defined,arg-type]
        if entry.group:
            yield from ((name, inner) for inner in command.commands)  # type: ignore[union-attr]
        else:
            yield (name,)


def help_of(words: tuple[str, ...]) -> str:
    command = typer.main.get_command(app)
    for word in words:
        command = command.get_command(None, word)  # type: ignore[attr-defined,arg-type]
    return command.help or ""


@pytest.mark.parametrize("words", list(leaves()), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    text = help_of(words)
    assert re.match(r"[A-Z].+\.", text), "the first line says what it does"
    assert re.search(rf"Example: .*featurectl {' '.join(words)}", text), text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_root_says_of_a_command_what_the_command_says(name: str) -> None:
    assert help_of((name,)).splitlines()[0] == COMMANDS[name].help


@pytest.mark.parametrize("words", list(leaves()), ids=" ".join)
def test_readme_names_every_command(words: tuple[str, ...]) -> None:
    commands = README.partition("## Commands")[2].partition("### ")[0]
    assert f"`{words[0]}" in commands
    assert words[-1] in commands


def test_readme_names_every_exit_code() -> None:
    from featurectl import errors

    codes = {one.exit_code for one in vars(errors).values() if isinstance(one, type) and hasattr(one, "exit_code")}
    table = README.partition("### Exit codes")[2].partition("\n## ")[0]
    assert codes <= {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}


def test_readme_names_every_variable() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "featurectl").rglob("*.py"))
    for variable in set(re.findall(r"FEATURECTL_[A-Z_]+", code)):
        assert variable in README, variable


def test_readme_names_the_tests_of_each_area() -> None:
    table = README.partition("| area | tests")[2].partition("\n\n")[0]
    areas = dict(re.findall(r"^\| ([a-z ]+) \| (.+) \|$", table, re.MULTILINE))
    assert len(areas) == 10
    for area, tests in areas.items():
        names = re.findall(r"`(test_\w+)`", tests)
        assert f"test_{area.replace(' ', '_')}" in names, "each area has a file of its name"
        assert [name for name in names if not list((CHECKOUT / "tests").glob(f"*/{name}.py"))] == [], area


def commands_of_first_run() -> list[tuple[str, list[str]]]:
    """Return each command with the lines README shows below it."""
    steps: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", FIRST_RUN, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
    return steps


@needs_data
def test_the_first_run_of_readme_does_what_it_shows(tmp_path: Path) -> None:
    shutil.copy(DATA / "candles" / "BTCUSDT_1h.csv.gz", tmp_path)
    where = tmp_path
    now = re.findall(r'"get-online", "as_of": "([^"]+)"', FIRST_RUN)[0]
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "FEATURECTL_NOW": now}
    try:
        for command, shown in commands_of_first_run():
            words = shlex.split(command)
            if words[0] == "cd":
                where = where / words[1]
                shutil.copy(tmp_path / "BTCUSDT_1h.csv.gz", where)
                continue
            done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            compare(command, shown, done.stdout + done.stderr)
        (example,) = re.findall(r"```python\n(import asyncio\n.*?)```", README, re.DOTALL)
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "online None" in done.stdout
        assert "forward_return_24" in done.stdout
    finally:
        embedded.stop(embedded.data_dir(tmp_path / "market"))


def compare(command: str, shown: list[str], printed: str) -> None:
    """Hold every line README shows to what was printed, but for paths and instants."""
    volatile = r"(/\S*/market|\d{4}-\d\d-\d\dT[\d:.]+Z)"
    lines = {re.sub(volatile, "…", line) for line in printed.splitlines()}
    for line in shown:
        assert re.sub(volatile, "…", line) in lines, f"{command}\nREADME: {line}\nprinted:\n{printed}"
