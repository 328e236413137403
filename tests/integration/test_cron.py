"""The crontab and the units are what cron and systemd take, and their lines run where nothing is set up for them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest
from cronsim import CronSim
from crontab import CronTab

from featurectl.core import embedded, ops
from featurectl.core.repository import Profile, make_repository, operations
from tests.fix_repository import SCRIPT, Repo

ODD = "my 100% \"market\" 'x' $HOME [a]"
UNITS = {f"featurectl-market-{job}.{kind}" for job in ("run", "maintain") for kind in ("service", "timer")}
AN_INSTANT = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


@pytest.fixture(params=Profile)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A repository fresh from `init`, in a directory with every kind of character."""
    return make_repository(tmp_path / ODD, request.param, project="market").root


@pytest.fixture
def moved(repo: Repo, tmp_path: Path) -> Repo:
    """An applied repository where odd characters are, whose database is named in its .env only."""
    root = tmp_path / ODD
    repo.root.rename(root)
    (root / ".env").write_text(f"# for cron\nPLACE='{repo.url}'\nFEATURECTL_DATABASE_URL=$PLACE\n")
    return Repo(root, repo.url)


def units(root: Path) -> dict[str, Path]:
    return {path.name: path for path in (root / "ops" / "systemd").iterdir()}


def verify(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "verify", "--man=no", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def jobs(crontab: str) -> dict[str, str]:
    """Return each line's command, as the shell gets it, by its schedule."""
    tab = CronTab(tab=crontab)
    assert dict(tab.env) == {"SHELL": "/bin/sh"}
    lines = [line for line in crontab.splitlines() if line and not line.startswith(("#", "SHELL="))]
    assert len(list(tab)) == len(lines), "what it does not understand it leaves out"
    assert all(job.is_valid() and job.is_enabled() and job.stdin is None for job in tab)
    return {str(job.slices): job.command for job in tab}


def by_cron(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as cron does: by /bin/sh, at home, with next to no environment; here even without a PATH of use."""
    bare = ["/usr/bin/env", "-i", f"HOME={home}", "PATH=/nonexistent", "/bin/sh", "-c", command]
    return subprocess.run(bare, cwd=home, capture_output=True, text=True, timeout=60, check=False)


# What init writes


def test_init_writes_crontab_units_and_the_rotation_of_logs(made: Path) -> None:
    assert {path.name for path in (made / "ops").iterdir()} == {"crontab", "logrotate.conf", "systemd"}
    assert set(units(made)) == UNITS
    for folder in ("logs", "inbox"):
        assert (made / folder / ".gitignore").read_text() == "*\n!.gitignore\n"
    for path in (path for path in (made / "ops").rglob("*") if path.is_file()):
        text = path.read_text()
        assert text.endswith("\n") and not text.endswith("\n\n")
    rotation = (made / "ops" / "logrotate.conf").read_text()
    assert "rotates none itself" in rotation
    assert '/my 100% \\"market\\" \'x\' $HOME \\[a]/logs/*.log" {' in rotation


def test_what_init_writes_names_no_secret_and_ignores_what_runs_leave(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURECTL_DATABASE_URL", "postgresql://me:hunter2@db/market")
    assert not [name for name, text in operations(made).items() if "hunter2" in text]
    subprocess.run(["git", "init", "--quiet"], cwd=made, check=True)
    for name in ("logs/run.log", "inbox/bars.csv", "inbox/order-book/x.csv", ".env"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).touch()
    listed = ["git", "ls-files", "--others", "--exclude-standard"]
    shown = subprocess.run(listed, cwd=made, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"logs/.gitignore", "inbox/.gitignore", "ops/crontab"} <= set(shown)
    assert not [name for name in shown if name.endswith((".log", ".csv", ".env"))]


# A crontab


def test_the_crontab_runs_every_five_minutes_and_retention_every_day(made: Path) -> None:
    commands = jobs((made / "ops" / "crontab").read_text())
    assert [list(islice(CronSim(when, AN_INSTANT), 2)) for when in commands] == [
        [datetime(2026, 1, 1, 0, 5, tzinfo=UTC), datetime(2026, 1, 1, 0, 10, tzinfo=UTC)],
        [datetime(2026, 1, 1, 3, 17, tzinfo=UTC), datetime(2026, 1, 2, 3, 17, tzinfo=UTC)],
    ]
    run, maintain = commands.values()
    for command, words, log in ((run, "run --if-locked skip", "run"), (maintain, "maintain", "maintain")):
        # A shell reads the directory back, and every program has its whole path.
        assert shlex.split(command)[:2] == ["cd", str(made)]
        assert f"exec {SCRIPT} -C . {words} --log-format json; }}" in command
        assert command.endswith(f">>logs/{log}.log 2>&1")


@pytest.mark.parametrize("line", ["61 * * * * true", "*/5 * * * cd / && true"])
def test_the_parser_takes_no_faulty_line(line: str) -> None:
    assert not list(CronTab(tab=f"{line}\n"))


@pytest.mark.parametrize("job", ["run", "maintain"])
def test_a_line_runs_with_no_environment_but_that_of_the_repository(moved: Repo, tmp_path: Path, job: str) -> None:
    (command,) = [line for line in jobs(moved.ok("cron", "show")).values() if line.endswith(f"logs/{job}.log 2>&1")]
    done = by_cron(command, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), logs(moved.root)
    assert [name for name, text in logs(moved.root).items() if result_of(text, job)] == [f"{job}.log"]
    assert not (moved.root / ".featurectl").exists(), ".env names the database"


def test_runs_that_start_at_once_do_not_disturb_each_other(moved: Repo, tmp_path: Path) -> None:
    command = next(iter(jobs(moved.ok("cron", "show")).values()))
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: by_cron(command, tmp_path), range(3)))
    assert [one.returncode for one in done] == [0, 0, 0], logs(moved.root)
    assert result_of(logs(moved.root)["run.log"], "run")


def test_runs_append_to_the_log_and_keep_their_exit_code(tmp_path: Path) -> None:
    root = make_repository(tmp_path / ODD, Profile.EMBEDDED, project="market").root
    shutil.rmtree(root / "logs")
    try:
        maintain = list(jobs((root / "ops" / "crontab").read_text()).values())[1]
        codes = [by_cron(maintain, tmp_path).returncode for _ in range(2)]
        assert codes == [2, 2], logs(root)
        assert logs(root)["maintain.log"].count("featurectl apply") == 2, "nothing is applied here, and that is said"
        assert embedded.status(embedded.data_dir(root)).running, "it outlives the run that started it"
    finally:
        embedded.stop(embedded.data_dir(root))


def test_a_faulty_env_file_stops_the_run_and_a_missing_repository_is_told_by_mail(made: Path, tmp_path: Path) -> None:
    (made / ".env").write_text("FEATURECTL_DATABASE_URL='postgresql://unclosed\n")
    run, maintain = jobs((made / "ops" / "crontab").read_text()).values()
    assert by_cron(maintain, tmp_path).returncode == 2
    assert "Unterminated quoted string" in logs(made)["maintain.log"]
    shutil.rmtree(made)
    done = by_cron(run, tmp_path)
    assert done.returncode != 0
    assert "can't cd to" in done.stderr


def result_of(log: str, command: str) -> bool:
    """Tell whether a log, every line of it an object of its own, holds a command's result."""
    return any(line.get("command") == command for line in map(json.loads, log.splitlines()))


def logs(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (root / "logs").glob("*.log")}


# Units


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(made: Path) -> None:
    done = verify(*units(made).values())
    assert (done.returncode, [line for line in done.stderr.splitlines() if "featurectl-" in line]) == (0, [])


@needs_systemd
@pytest.mark.parametrize("name", ['it\'s "own"', "my 100% $HOME", r"back\slash"])
def test_systemd_runs_a_program_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    script = tmp_path / name / "featurectl"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(ops, "find_command", lambda: (str(script),))
    done = verify(*units(make_repository(tmp_path / "market", Profile.EMBEDDED).root).values())
    assert (done.returncode, [line for line in done.stderr.splitlines() if "featurectl-" in line]) == (0, [])


@needs_systemd
@pytest.mark.parametrize(
    ("line", "broken"),
    [("ExecStart=.*", "ExecStart=/nonexistent/featurectl run"), ("WorkingDirectory=.*", "WorkingDirectory=here")],
)
def test_systemd_says_what_is_wrong_with_a_broken_unit(made: Path, line: str, broken: str) -> None:
    path = units(made)["featurectl-market-run.service"]
    path.write_text(re.sub(line, broken, path.read_text()))
    done = verify(path)
    assert done.returncode != 0 or "featurectl-market-run.service" in done.stderr


@needs_systemd
@pytest.mark.parametrize(("job", "next_one"), [("run", "00:05:00"), ("maintain", "03:17:00")])
def test_the_timers_elapse_when_the_crontab_does(made: Path, job: str, next_one: str) -> None:
    timer = read_unit(units(made)[f"featurectl-market-{job}.timer"])["Timer"]
    command = ["systemd-analyze", "calendar", f"--base-time={AN_INSTANT:%Y-%m-%d %H:%M:%S} UTC", timer["OnCalendar"]]
    done = subprocess.run(command, env={"TZ": "UTC"}, capture_output=True, text=True, check=True)
    assert f"Next elapse: Thu 2026-01-01 {next_one} UTC" in done.stdout


def test_the_units_name_this_repository_and_one_another(made: Path) -> None:
    found = units(made)
    for job in ("run", "maintain"):
        timer = read_unit(found[f"featurectl-market-{job}.timer"])
        assert timer["Timer"]["Unit"] == f"featurectl-market-{job}.service"
        assert (timer["Timer"]["Persistent"], timer["Install"]["WantedBy"]) == ("true", "timers.target")
        service = read_unit(found[timer["Timer"]["Unit"]])["Service"]
        assert service["WorkingDirectory"].replace("%%", "%") == str(made)
        assert re.sub(r"\\(.)", r"\1", service["EnvironmentFile"]).replace("%%", "%") == f"-{made}/.env"
        assert service["ExecStart"].startswith(f"{SCRIPT} -C . {job}")
        assert service["User"] == made.owner()


@pytest.mark.parametrize("profile", Profile)
def test_a_service_spares_the_server_that_it_may_have_started(tmp_path: Path, profile: Profile) -> None:
    path = units(make_repository(tmp_path / "market", profile).root)["featurectl-market-run.service"]
    service = read_unit(path)["Service"]
    settings = {name: service.get(name) for name in ("KillMode", "PrivateTmp", "Nice")}
    if profile is Profile.EMBEDDED:
        assert settings == {"KillMode": "process", "PrivateTmp": "false", "Nice": None}
    else:
        assert settings == {"KillMode": "mixed", "PrivateTmp": "true", "Nice": "5"}


def read_unit(path: Path) -> configparser.ConfigParser:
    """Read a unit; a line that is none, a section or a key that is there twice, is an error."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


# featurectl cron show


def test_cron_show_prints_what_init_wrote_until_the_repository_moves(made: Path, tmp_path: Path) -> None:
    bare = Repo(made, "")  # and no database is asked
    assert bare.ok("cron", "show") == (made / "ops" / "crontab").read_text()
    assert bare.ok("cron", "show", "--logrotate") == (made / "ops" / "logrotate.conf").read_text()
    printed = bare.ok("cron", "show", "--systemd")
    for name, path in units(made).items():
        assert f"# {name}\n{path.read_text()}" in printed
    elsewhere = made.rename(tmp_path / "elsewhere")
    assert f"cd {elsewhere} && " in Repo(elsewhere, "").ok("cron", "show", "-C", elsewhere)


def test_cron_show_needs_of_the_file_its_project_and_profile_only(made: Path) -> None:
    path = made / "feature_store.yaml"
    path.write_text(path.read_text().replace('"market"', '"${MARKET}"').replace("cache_ttl_seconds: 60", "x: ${UNSET}"))
    bare = Repo(made, "")
    assert "featurectl, project eu:" in bare.ok("cron", "show", env={"MARKET": "eu"})
    done = bare.run("cron", "show")
    assert (done.returncode, done.stdout) == (2, "")
    assert "project names ${MARKET}, which is not set" in done.stderr
