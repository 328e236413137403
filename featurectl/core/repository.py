"""Make a feature repository: render the templates, copy the definitions, and leave nothing behind on failure."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from featurectl.core import ops
from featurectl.core.config import declared
from featurectl.errors import ConfigError, NotAllowed, OutputFileError

PACKAGE = Path(__file__).resolve().parent.parent
_STAGING = ".featurectl-init-"
# `cp` gives a copy the mode of the original, and passwords are written into this one's.
_PRIVATE = (".env.example",)


class Profile(StrEnum):
    """Where a repository's database runs."""

    EMBEDDED = "embedded"
    TIMESCALE = "timescale"


@dataclass(frozen=True, slots=True)
class Made:
    """A repository that was made, and its files, relative to it."""

    root: Path
    project: str
    files: tuple[str, ...]


def resource(name: str) -> Path:
    """Return a folder that ships with the package: in the wheel inside it, in a checkout beside it."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def project_name(root: Path, given: str | None) -> str:
    """Return the project's name: the one given, or the directory's with what Feast refuses replaced.

    Raises:
        ConfigError: the name given is not one Feast takes.
    """
    if given is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", given):
            raise ConfigError(f"project '{given}': use letters, digits and underscores, a letter or digit first")
        return given
    return re.sub(r"[^A-Za-z0-9]+", "_", root.name).strip("_").lower() or "market"


def make_repository(root: Path, profile: Profile, *, project: str | None = None, overwrite: bool = False) -> Made:
    """Write a repository into ``root``.

    Raises:
        NotAllowed: files would be overwritten and ``overwrite`` is not set; nothing was written.
        OutputFileError: the directory can't be written; nothing was left behind.
    """
    root = Path(os.path.realpath(root))  # resolve() fails where links go round in a circle
    name = project_name(root, project)
    try:
        contents = {**_rendered_for(root, name, profile), **_definitions()}
        existing = sorted(path for path in contents if (root / path).exists())
        if existing and not overwrite:
            shown = ", ".join(existing[:5]) + (f" and {len(existing) - 5} more" if len(existing) > 5 else "")
            raise NotAllowed(f"{root} already has {shown}; name another directory, or overwrite them with --force")
        _write_all(root, contents)
    except OSError as error:
        place = error.filename if error.filename and _STAGING not in str(error.filename) else root
        raise OutputFileError(f"{place} can't be written: {error.strerror}; name another directory") from error
    return Made(root, name, tuple(sorted(contents)))


def operations(root: Path) -> dict[str, str]:
    """Render the crontab, the systemd units and logrotate's file for a repository where it stands now, by file name.

    The database is not asked, nor is its URL needed.

    Raises:
        ConfigError: feature_store.yaml can't be used, or a path that no crontab can hold.
    """
    project, embedded = declared(root)
    contents = _rendered_for(root, project, Profile.EMBEDDED if embedded else Profile.TIMESCALE)
    return {Path(name).name: text for name, text in contents.items() if name.startswith("ops/")}


def _rendered_for(root: Path, project: str, profile: Profile) -> dict[str, str]:
    return rendered(profile, {"project": project, "profile": profile.value, **ops.facts(root)})


def rendered(profile: Profile, values: Mapping[str, object]) -> dict[str, str]:
    """Render the templates of a profile, and their names; an undefined variable is an error."""
    import jinja2  # 0.15 s, and only init and cron need it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource("templates")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(ops.FILTERS)
    contents = {}
    for folder in (resource("templates") / "common", resource("templates") / profile.value):
        for path in sorted(folder.rglob("*.j2")):
            template = environment.from_string(path.read_text(encoding="utf-8"))
            name = environment.from_string(str(path.relative_to(folder)).removesuffix(".j2")).render(values)
            contents[name] = template.render(values)
    return contents


def _definitions() -> dict[str, str]:
    folder = resource("feature_repo")
    return {f"feature_repo/{path.name}": path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}


def _write_all(root: Path, contents: Mapping[str, str]) -> None:
    """Write everything into a hidden folder first, then move it into place; undo the moves when one fails."""
    new_directories = _missing_directories(root)
    moved: list[tuple[Path, Path | None]] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=root) as name:
            staging = Path(name)
            for path, text in contents.items():
                (staging / "new" / path).parent.mkdir(parents=True, exist_ok=True)
                (staging / "new" / path).write_text(text, encoding="utf-8")
                if path in _PRIVATE:
                    (staging / "new" / path).chmod(0o600)
            try:
                for path in contents:
                    _move(staging, root, path, moved, new_directories)
            except BaseException:
                _undo(moved)
                raise
    except BaseException:
        _remove(new_directories)
        raise


def _move(
    staging: Path, root: Path, path: str, moved: list[tuple[Path, Path | None]], new_directories: list[Path]
) -> None:
    """Move one file into place. What is done is noted before it is, so that an interrupt between can't hide it."""
    target, old = root / path, None
    for directory in reversed(_missing_directories(target.parent)):
        new_directories.append(directory)
        directory.mkdir()
    if target.exists():
        old = staging / "old" / path
        old.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(target, old)
    moved.append((target, old))
    os.replace(staging / "new" / path, target)


def _undo(moved: list[tuple[Path, Path | None]]) -> None:
    for target, old in reversed(moved):
        with contextlib.suppress(OSError):
            target.unlink(missing_ok=True) if old is None else os.replace(old, target)


def _missing_directories(path: Path) -> list[Path]:
    """Return the directories to be made for ``path``, outermost last."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    return missing


def _remove(directories: list[Path]) -> None:
    for directory in sorted(directories, key=lambda one: len(one.parts), reverse=True):
        with contextlib.suppress(OSError):
            directory.rmdir()
