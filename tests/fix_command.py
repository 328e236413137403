"""The command line in this process, which takes no second to start: what it prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from featurectl.cli.app import run
from featurectl.core import redact
from tests.fix_repository import Repo


@dataclass(frozen=True)
class Ended:
    """How a command line ended: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines on stderr, every one of which has to be a JSON object."""
        lines = [json.loads(line) for line in self.err.removesuffix("\n").split("\n") if self.err]
        assert all(isinstance(line, dict) for line in lines)
        return lines


Command = Callable[..., Ended]


@pytest.fixture
def command(repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run command lines in the repository; what one of them learns to be a secret is forgotten after the test."""
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", repo.url)
    monkeypatch.setattr(redact, "_known", set())
    monkeypatch.chdir(repo.root)

    def call(*words: str | Path, code: int | None = None) -> Ended:
        capsys.readouterr()
        ended = Ended(run([str(word) for word in words]), *capsys.readouterr())
        assert code is None or ended.code == code, f"{words}: {ended.code}\n{ended.out}\n{ended.err}"
        return ended

    return call
