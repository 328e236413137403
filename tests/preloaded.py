"""Processes of the console scripts that need no four seconds to load Feast: they are forked from one that has it.

:func:`run` does what `subprocess.run` does, for the scripts `featurectl` and `feast`: a process of its own, with its
own words, directory, environment and streams, executes the very script. What it has from the start is others' code
alone; every module of featurectl it imports itself. Commands that load no Feast have no use for this; which those are
is for test_hot_path.py to see, in processes that begin with nothing.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded_feast"])


def process(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Return a process, to be started, that calls a function."""
    # It would measure itself, and all that are forked from it.
    with mock.patch.dict(os.environ):
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
        forkserver.ensure_running()
    return _CONTEXT.Process(target=target, args=arguments)


def run(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run a script, whose path is the first word, without input; raise `subprocess.TimeoutExpired` like that does."""
    with tempfile.TemporaryDirectory(prefix="featurectl-test-") as directory:
        streams = [Path(directory, name) for name in ("out", "err")]
        script = process(_execute, [*words], cwd, {**env}, streams)
        script.start()
        script.join(timeout)
        if script.exitcode is None:
            script.kill()
            script.join()
            raise subprocess.TimeoutExpired([*words], timeout)
        return subprocess.CompletedProcess([*words], script.exitcode, *(path.read_bytes() for path in streams))


def _execute(words: list[str], cwd: Path, env: dict[str, str], streams: list[Path]) -> None:
    for number, path in enumerate([Path(os.devnull), *streams]):
        source = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(source, number)
        os.close(source)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = words
    sys.path[0] = str(Path(words[0]).parent)
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        # A process of multiprocessing's calls none of these at its end.
        atexit._run_exitfuncs()
