"""Load a repository's Feast objects from its Python files, and check that they make sense together."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feast.repo_contents import RepoContents

from featurectl.core.catalog import Catalog
from featurectl.core.config import Config
from featurectl.core.functions import importing_from
from featurectl.errors import DefinitionError
from featurectl.plugin.catalog import catalog_of, check_name, key_types, real_entities


@dataclass(frozen=True)
class Definitions:
    """A repository's objects, the files they stand in, and the catalog they make."""

    contents: RepoContents
    files: dict[int, str]
    catalog: Catalog
    key_types: dict[str, str] = field(default_factory=dict)

    def file_of(self, item: object) -> str:
        return self.files.get(id(item), "the definitions")


def load_definitions(
    config: Config,
    complete: Callable[[RepoContents], None] = lambda contents: None,
    *,
    on_files: Callable[[Sequence[str]], None] = lambda files: None,
) -> Definitions:
    """Import every Python file of the repository, as Feast does, and check what they define.

    ``on_files`` is told the files before any of them is executed. ``complete`` is called with the objects as the files
    give them, to add what is to be learnt elsewhere.

    Raises:
        DefinitionError: a file can't be imported, or the definitions contradict themselves. The message names the file.
    """
    with working_in(config.root):
        contents = _import_all(config.root, on_files)
        files = _locate(config.root)
        objects = Definitions(contents, files, Catalog(config.project, (), (), ()))
        _refuse_duplicates(objects)
        complete(contents)
        catalog = catalog_of(config, contents, objects.file_of)
    return Definitions(contents, files, catalog, key_types(contents, objects.file_of))


@contextlib.contextmanager
def working_in(root: Path) -> Iterator[None]:
    """Stand in the repository while Feast works: it finds modules by the working directory, and prints to stdout."""
    before = Path.cwd()
    os.chdir(root)
    try:
        with importing_from(root), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.chdir(before)


def python_files(root: Path) -> list[Path]:
    """Return the files of a repository that Feast executes."""
    from feast.repo_operations import get_repo_files

    return list(get_repo_files(root))


def _import_all(root: Path, on_files: Callable[[Sequence[str]], None]) -> RepoContents:
    from feast.repo_operations import parse_repo

    sys.dont_write_bytecode = True
    files = {_relative(path, root): path for path in python_files(root)}
    for shown, path in files.items():
        _check_syntax(path, shown)
    on_files(sorted({*files, *(_relative(path, root) for path in _packages_of(files.values(), root))}))
    try:
        return parse_repo(root)
    except DefinitionError:
        raise
    except (Exception, SystemExit) as error:
        raise DefinitionError(f"{_place_of(error, root)}{type(error).__name__}: {error}") from error


def _packages_of(files: Iterable[Path], root: Path) -> Iterator[Path]:
    """Yield the files that are executed on the way to others, which Feast does not list."""
    for path in files:
        for folder in path.parents:
            if root in folder.parents and (folder / "__init__.py").is_file():
                yield folder / "__init__.py"


def _place_of(error: BaseException, root: Path) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(root.resolve())
    ]
    return f"{_relative(Path(frames[-1].filename), root)} line {frames[-1].lineno}: " if frames else ""


def _check_syntax(path: Path, shown: str) -> None:
    """Refuse a file that is no Python before any other is executed.

    Raises:
        DefinitionError: names the file and the line.
    """
    try:
        ast.parse(path.read_bytes())
    except SyntaxError as error:
        line = f" line {error.lineno}" if error.lineno else ""
        raise DefinitionError(f"{shown}{line}: SyntaxError: {error.msg}") from error
    except ValueError as error:  # a NUL byte, before Python 3.11.4
        raise DefinitionError(f"{shown}: SyntaxError: {error}") from error


def _relative(path: Path, root: Path) -> str:
    resolved = path.resolve()
    return str(resolved.relative_to(root.resolve())) if resolved.is_relative_to(root.resolve()) else str(path)


def _locate(root: Path) -> dict[int, str]:
    """Return the file that each object is assigned in, by identity; importing a name elsewhere is not assigning it."""
    files: dict[int, str] = {}
    for path in python_files(root):
        shown = _relative(path, root)
        module = sys.modules.get(shown.removesuffix(".py").replace(os.sep, "."))
        for name in _assigned_names(path):
            value = getattr(module, name, None)
            files.setdefault(id(value), shown)
            source = getattr(value, "batch_source", None)
            if source is not None:
                files.setdefault(id(source), shown)
    return files


def _assigned_names(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_bytes()).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _refuse_duplicates(objects: Definitions) -> None:
    contents = objects.contents
    views = [*contents.feature_views, *contents.stream_feature_views, *contents.on_demand_feature_views]
    _unique("entity", real_entities(contents), objects)
    _unique("view", views, objects)
    _unique("service", contents.feature_services, objects)
    _unique("source", contents.data_sources, objects)
    for kind, items in (("view", views), ("service", contents.feature_services)):
        for item in items:
            check_name(f"{objects.file_of(item)}: {kind} '{item.name}'", item.name)


def _unique(kind: str, items: Iterable[Any], objects: Definitions) -> None:
    seen: dict[str, Any] = {}
    for item in items:
        other = seen.setdefault(item.name.lower(), item)
        if other is not item:
            places = " and in ".join(dict.fromkeys((objects.file_of(other), objects.file_of(item))))
            raise DefinitionError(f"{kind} '{item.name}' is defined twice, in {places}; rename or remove one")
