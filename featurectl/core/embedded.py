"""The PostgreSQL of the wheel, run for one repository: data under ``.featurectl/pgdata``, a Unix socket, no TCP.

It starts on first use and stays up until it is stopped. ``running_url`` is what every command asks first: one small
file read, no lock, no process. Whoever initializes, starts or stops a server holds ``.featurectl/lock``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from featurectl.core import postmaster
from featurectl.core.postmaster import Account, PidFile
from featurectl.errors import ConfigError, DatabaseUnreachable

_POLL = 0.01  # seconds between two looks at a server that starts or stops
_PATIENCE = 3.0  # seconds until a server that was found with a damaged pid file is restarted
_TRIES = 5  # of initdb
_BIG_LOG = 10_000_000  # bytes; a bigger log is set aside at the next start

_SETTINGS = """
# featurectl
listen_addresses = ''
unix_socket_permissions = 0700
timezone = 'UTC'
log_timezone = 'UTC'
jit = off
"""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server and its files; ``pid``, ``socket_dir`` and ``started_at`` (UTC) are None when it does not run.

    ``version`` is that of the wheel's programs, or the major version of the data when another one wrote them; it is
    None, and ``size_bytes`` 0, before the first start.
    """

    running: bool
    pid: int | None
    version: str | None
    socket_dir: Path | None
    data_dir: Path
    size_bytes: int
    started_at: datetime | None
    log_path: Path


def data_dir(repository: Path) -> Path:
    """Return the data directory of a repository's server."""
    return repository / ".featurectl" / "pgdata"


def running_url(data_dir: Path) -> str | None:
    """Return the URL of the server if it runs and once said that it is ready; no connection is made.

    While it recovers from a crash of one of its sessions the URL is returned too; ``ensure_running`` waits for that.
    """
    data_dir = Path(os.path.abspath(data_dir))
    try:
        info = postmaster.read_pid_file(data_dir)
        if info is None or info.status != "ready":
            return None
        return _url(data_dir, info) if postmaster.serves_quickly(info.pid, data_dir, info.data_dir) else None
    except OSError:
        return None


def was_stopped(data_dir: Path) -> bool:
    """Tell whether nothing is left of a server that ran: one that was stopped leaves nothing, one that was killed does.

    Before the first start that is so, too.
    """
    return postmaster.read_pid_file(data_dir) is None


def ensure_running(data_dir: Path, *, unless_stopped: bool = False, timeout: float = 30) -> str:
    """Return the URL of a server that accepts connections; initialize and start it when needed.

    Args:
        unless_stopped: leave it stopped where somebody stopped it.
        timeout: seconds to wait for another process that starts or stops it, for recovery, and for the start.

    Raises:
        DatabaseUnreachable: it does not start, or not in time; the message names the log and its last line.
        ConfigError: the directory can't be used, has the data of another major version, or there is no such wheel.
    """
    data_dir = Path(os.path.abspath(data_dir))
    deadline = time.monotonic() + timeout
    url = running_url(data_dir)
    with _files_usable(data_dir):
        if url is not None and _accepts(url):
            return url
        postmaster.program("postgres")
        _make_control_dir(data_dir.parent)
        postmaster.account_for(data_dir)  # a better message than that of a lock that can't be opened
        with _locked(data_dir, deadline):
            if unless_stopped and was_stopped(data_dir):
                raise DatabaseUnreachable("the embedded PostgreSQL was stopped; `featurectl db start` starts it")
            return _bring_up(data_dir, deadline)


def stop(data_dir: Path, *, timeout: float = 30) -> bool:
    """Shut the server down and wait until it is gone; return False if it was not running.

    Sessions are closed and open transactions rolled back. A server that does not end in time is aborted, which loses
    nothing: the next start recovers from the write-ahead log.

    Raises:
        DatabaseUnreachable: it does not end, or another process holds the lock for longer than ``timeout`` seconds.
        ConfigError: the directory or the process belongs to somebody else.
    """
    data_dir = Path(os.path.abspath(data_dir))
    deadline = time.monotonic() + timeout
    with _files_usable(data_dir):
        if not data_dir.is_dir():
            return False
        with _locked(data_dir, deadline):
            pid = postmaster.find(data_dir)
            if pid is None:
                return False
            postmaster.interrupt(pid)
            if not _gone(pid, deadline):
                postmaster.abort(pid)
                if not _gone(pid, time.monotonic() + 10):
                    raise _unreachable(data_dir, f"process {pid} does not end")
            postmaster.remove_remains(data_dir)
            return True


def status(data_dir: Path) -> ServerStatus:
    """Describe the server and its files without starting it.

    Raises:
        ConfigError: the directory belongs to somebody else.
    """
    data_dir = Path(os.path.abspath(data_dir))
    with _files_usable(data_dir):
        pid = postmaster.find(data_dir) if data_dir.is_dir() else None
        info = postmaster.read_pid_file(data_dir) if pid else None
        return ServerStatus(
            running=pid is not None,
            pid=pid,
            version=_version(data_dir),
            socket_dir=postmaster.socket_dir(data_dir, info) if info else None,
            data_dir=data_dir,
            size_bytes=_size(data_dir),
            started_at=datetime.fromtimestamp(info.started, UTC) if info and info.started else None,
            log_path=_log_path(data_dir),
        )


def client_program(name: str) -> Path:
    """Return the path of ``psql``, ``pg_dump`` or another program that comes with the server.

    Raises:
        ConfigError: this platform has no wheel.
        NotFound: the wheel has no such program.
    """
    return postmaster.program(name)


def _url(data_dir: Path, info: PidFile) -> str | None:
    sockets = postmaster.socket_dir(data_dir, info)
    if sockets is None:
        return None
    return f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='')}&port={info.port}"


def _accepts(url: str) -> bool:
    return postmaster.run([postmaster.program("pg_isready"), "-q", "-t", "3", "-d", url], None) == 0


@contextmanager
def _files_usable(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename or data_dir} can't be used: {error.strerror or error}") from error


@contextmanager
def _locked(data_dir: Path, deadline: float) -> Iterator[None]:
    """Hold the repository's lock, which the system releases when the process dies."""
    import fcntl

    path = data_dir.parent / "lock"
    with _open_ours(path) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise _unreachable(data_dir, f"another process starts or stops it and holds {path}") from None
                time.sleep(_POLL)
        yield


def _bring_up(data_dir: Path, deadline: float) -> str:
    """With the lock held: wait for the server that runs, or start one; also after one that was shutting down."""
    log_start: int | None = None
    while True:
        pid, sockets = postmaster.find(data_dir), None
        if pid is None:
            pid, log_start, sockets = _launch(data_dir)
        url = _wait_until_ready(data_dir, pid, deadline, heal=sockets is None)
        if url is not None:
            return url
        if sockets is not None and log_start is not None:
            if sockets != data_dir:
                with suppress(OSError):
                    sockets.rmdir()
            if not _is_passing(data_dir, _last_line(data_dir, log_start)):
                raise _unreachable(data_dir, "it ended at its start", log_start)
        if time.monotonic() >= deadline:
            raise _unreachable(data_dir, "it did not become ready in time", log_start)
        time.sleep(_POLL * 5)


def _is_passing(data_dir: Path, reason: str) -> bool:
    """Say whether another try may start the server that ended.

    The sessions of a killed server hold its shared memory a moment longer; a start that lost its starter may be under
    way; under root, somebody may have closed a directory again (pytest does so with its own at every start).
    """
    return "still in use" in reason or "already exists" in reason or _let_through_again(data_dir)


def _let_through_again(data_dir: Path) -> bool:
    return os.geteuid() == 0 and postmaster.let_through(data_dir)


def _wait_until_ready(data_dir: Path, pid: int, deadline: float, *, heal: bool) -> str | None:
    """Return the URL once the server accepts connections, or None when it has ended.

    With ``heal``, a server that nobody can find, its socket removed or its pid file damaged, is shut down.
    """
    patience = time.monotonic() + min(_PATIENCE, max(0.0, deadline - time.monotonic()) / 3)
    while postmaster.is_alive(pid):
        info = postmaster.read_pid_file(data_dir)
        known = info is not None and info.pid == pid and bool(info.status)
        url = _url(data_dir, info) if info is not None and known and info.status == "ready" else None
        if url is not None and _accepts(url):
            return url
        damaged = not known and time.monotonic() >= patience  # one that has just been launched has not written it all
        lost = info is not None and info.status == "ready" and url is None
        if heal and (damaged or lost):
            postmaster.interrupt(pid)
            heal = False
        if time.monotonic() >= deadline:
            raise _unreachable(data_dir, "it did not become ready in time")
        time.sleep(_POLL)
    return None


def _launch(data_dir: Path) -> tuple[int, int, Path]:
    """Start the server, on a new cluster if need be; return its pid, where its log begins, and its socket directory."""
    account = postmaster.account_for(data_dir)
    if account is not None:
        postmaster.let_through(data_dir)
        postmaster.let_run(postmaster.program("postgres").parent)
    _initialize_if_needed(data_dir, account)
    _check_version(data_dir)
    if account is not None and data_dir.stat().st_uid == 0:
        _give(data_dir, account)  # root copied it here
    data_dir.chmod(0o700)
    postmaster.remove_remains(data_dir)
    log_path = _log_path(data_dir)
    if log_path.exists() and log_path.stat().st_size > _BIG_LOG:
        log_path.replace(log_path.with_suffix(".log.1"))
    with _open_ours(log_path) as log:
        start = log.seek(0, os.SEEK_END)
        sockets = postmaster.new_socket_dir(data_dir, account)
        return postmaster.launch(data_dir, sockets, log, account), start, sockets


def _initialize_if_needed(data_dir: Path, account: Account | None) -> None:
    """Make the data directory under another name, then rename it: a killed ``initdb`` leaves nothing half-made."""
    import shutil
    import tempfile

    prefix = f"{data_dir.name}.new-"
    for leftover in data_dir.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if _never_finished(data_dir):
        os.rename(data_dir, tempfile.mkdtemp(prefix=f"{data_dir.name}.unusable-", dir=data_dir.parent))
    if data_dir.exists() and any(data_dir.iterdir()):
        if not (data_dir / "PG_VERSION").exists():
            raise ConfigError(f"{data_dir} is not a PostgreSQL data directory and not empty; move it away")
        return
    for last in [False] * (_TRIES - 1) + [True]:
        new = Path(tempfile.mkdtemp(prefix=prefix, dir=data_dir.parent))
        try:
            with _open_ours(_log_path(data_dir)) as log:
                start = log.seek(0, os.SEEK_END)
                if _initialize(new, account, log):
                    new.rename(data_dir)
                    return
        finally:
            shutil.rmtree(new, ignore_errors=True)
        if last or not _let_through_again(data_dir):
            raise _unreachable(data_dir, "initdb failed", start)


def _initialize(new: Path, account: Account | None, log: BinaryIO) -> bool:
    if account is not None:
        os.chown(new, account.uid, account.gid)
    command: list[str | Path] = [postmaster.program("initdb"), "-D", new, "-U", "postgres", "--no-instructions"]
    command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command += ["--auth-local=trust", "--auth-host=reject"]  # whoever can reach the socket is us
    if postmaster.run(command, account, log) != 0:
        return False
    with (new / "postgresql.conf").open("a") as settings:
        settings.write(_SETTINGS)
        settings.flush()
        os.fsync(settings.fileno())
    return True


def _never_finished(data_dir: Path) -> bool:
    """Say whether an ``initdb`` that wrote in place was killed: ``postgres``, the last database it makes, has OID 5."""
    if not (data_dir / "PG_VERSION").is_file() or (data_dir / "base" / "5" / "PG_VERSION").is_file():
        return False
    if _major(data_dir) not in ("", str(postmaster.MAJOR)):
        return False
    databases = [int(path.name) for path in (data_dir / "base").glob("*") if path.name.isdigit()]
    return all(oid < 16384 for oid in databases)  # those of users are above


def _check_version(data_dir: Path) -> None:
    found = _major(data_dir)
    if found != str(postmaster.MAJOR):
        raise ConfigError(
            f"{data_dir} was made by PostgreSQL {found or '(unknown)'}, and the embedded server is PostgreSQL "
            f"{postmaster.MAJOR}; dump it with the old version and restore it, or move it away"
        )


def _major(data_dir: Path) -> str:
    return (data_dir / "PG_VERSION").read_text(errors="replace").strip()


def _version(data_dir: Path) -> str | None:
    if not (data_dir / "PG_VERSION").is_file():
        return None
    found = _major(data_dir)
    return postmaster.version() if found == str(postmaster.MAJOR) else found


def _size(data_dir: Path) -> int:
    total = 0
    for directory, _, names in os.walk(data_dir):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except FileNotFoundError:  # a running server removes files
                continue
    return total


def _make_control_dir(path: Path) -> None:
    if path.is_dir():
        return
    path.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        parent = path.parent.stat()
        os.chown(path, parent.st_uid, parent.st_gid, follow_symlinks=False)


def _open_ours(path: Path) -> BinaryIO:
    """Open a file for appending that only its owner reads; root makes it the owner's of the directory."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.fdopen(os.open(path, flags, 0o600), "ab")
    if os.geteuid() == 0:
        parent = path.parent.stat()
        os.fchown(file.fileno(), parent.st_uid, parent.st_gid)
    return file


def _give(data_dir: Path, account: Account) -> None:
    os.chown(data_dir, account.uid, account.gid)
    for directory, folders, names in os.walk(data_dir):
        for name in (*folders, *names):
            os.chown(os.path.join(directory, name), account.uid, account.gid, follow_symlinks=False)


def _gone(pid: int, deadline: float) -> bool:
    while postmaster.is_alive(pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


def _log_path(data_dir: Path) -> Path:
    return data_dir.parent / "postgres.log"


def _last_line(data_dir: Path, start: int | None = None) -> str:
    """Return the log's last line, of those since ``start`` the last that names a failure, without time and process."""
    try:
        with _log_path(data_dir).open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(start or 0, end - 20_000))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    failures = [line for line in lines if "FATAL:" in line or "PANIC:" in line or "error:" in line]
    line = failures[-1] if failures and start is not None else lines[-1] if lines else "empty"
    return line.partition("] ")[2] or line


def _unreachable(data_dir: Path, what: str, log_start: int | None = None) -> DatabaseUnreachable:
    line = _last_line(data_dir, log_start)
    return DatabaseUnreachable(f"the embedded PostgreSQL in {data_dir}: {what}; {_log_path(data_dir)}: {line}")
