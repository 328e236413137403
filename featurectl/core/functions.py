"""A feature is a function: load a repository's functions, check them, and apply them in the order their inputs need."""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from featurectl.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

CANDLE_COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume", "trade_count")
ORDER_BOOK_COLUMNS = ("bid", "bid_size", "ask", "ask_size")
TRADE_COLUMNS = ("price", "size", "side")
# What the functions of a view may read, by what it is computed from: tables and their columns. The inputs of one
# function are of one table. Signals are named by those who write them, so any name may be one.
INPUTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "candles": {"candles": CANDLE_COLUMNS},
    "ticks": {"order_book": ORDER_BOOK_COLUMNS, "trades": TRADE_COLUMNS},
    "signals": {},
}


@dataclass(frozen=True, slots=True)
class FeatureFunction:
    """One feature: the function of its name, the names of its inputs, and the table they are of in the end.

    ``hash`` changes with the function's code, with that of the features it needs, and with what else the file holds
    beside features; comments and layout do not count.
    """

    name: str
    inputs: tuple[str, ...]
    function: Callable[..., Any]
    table: str = ""
    hash: str = ""

    @property
    def description(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


@dataclass(frozen=True, slots=True)
class FunctionSet:
    """The functions of one view, each after those it needs."""

    file: str
    ordered: tuple[FeatureFunction, ...]

    @property
    def hashes(self) -> dict[str, str]:
        """Return each feature's hash."""
        return {feature.name: feature.hash for feature in self.ordered}

    @property
    def code_hash(self) -> str:
        """Return a hash that changes with that of any feature, and with their choice."""
        return hashlib.sha256(repr(sorted(self.hashes.items())).encode()).hexdigest()

    def only(self, names: Collection[str]) -> FunctionSet:
        """Return the functions of these features and of those they need."""
        needed = set(names)
        for feature in reversed(self.ordered):
            if feature.name in needed:
                needed.update(feature.inputs)
        return FunctionSet(self.file, tuple(feature for feature in self.ordered if feature.name in needed))

    def compute(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """Apply the functions to equally long columns; infinities become NaN.

        Raises:
            DefinitionError: a function fails, or returns something else than one number a row.
        """
        import numpy as np  # 0.1 s, and only compute needs it

        known = {name: _read_only(values) for name, values in columns.items()}
        rows = len(next(iter(columns.values())))
        computed = {}
        for feature in self.ordered:
            values = self._apply(feature, known, rows)
            computed[feature.name] = np.where(np.isfinite(values), values, np.nan)
            known[feature.name] = _read_only(computed[feature.name])
        return computed

    def _apply(self, feature: FeatureFunction, known: Mapping[str, Array], rows: int) -> Array:
        import numpy as np

        try:
            with np.errstate(all="ignore"):  # what overflows becomes null, and needs no words
                values = np.asarray(feature.function(*(known[name] for name in feature.inputs)), dtype=np.float64)
        except Exception as error:
            raise DefinitionError(f"{self.file}: {feature.name} failed: {type(error).__name__}: {error}") from error
        if values.shape != (rows,):
            raise DefinitionError(f"{self.file}: {feature.name} returned shape {values.shape} for {rows} rows")
        return values


def _read_only(values: Array) -> Array:
    """Return a view that refuses changes: a function must not alter what the next one reads."""
    view = values.view()
    view.flags.writeable = False
    return view


def load_functions(file: Path, features: Sequence[str], *, root: Path, computed_from: str = "candles") -> FunctionSet:
    """Import ``file`` and return the functions of these features, which read what ``computed_from`` names.

    Raises:
        DefinitionError: the file can't be imported, a feature has no function, an input does not exist, inputs are of
            several tables or go in a circle. The message names the file and the field.
    """
    shown = str(file.relative_to(root) if file.is_relative_to(root) else file)
    with importing_from(root):
        module = _import(file, shown)
    functions = {name: _feature_function(module, name, shown) for name in features}
    tables = INPUTS[computed_from]
    ordered: dict[str, FeatureFunction] = {}
    code = _Code.of(file, features, root)
    for name in _order(functions, tables, shown):
        feature = functions[name]
        table = _table_of(feature, tables, ordered, shown)
        needed = [ordered[other].hash for other in feature.inputs if other in ordered]
        ordered[name] = replace(feature, table=table, hash=code.hash_of(name, needed))
    return FunctionSet(shown, tuple(ordered.values()))


@dataclass(frozen=True, slots=True)
class _Code:
    """A file's code, in a form without comments and layout: of each feature, and of all the rest.

    To the rest belong the repository's own modules that the file imports, and those that these import.
    """

    features: Mapping[str, str]
    rest: str

    @classmethod
    def of(cls, file: Path, features: Collection[str], root: Path) -> _Code:
        body = _body(file)
        own = [part for part in body if isinstance(part, ast.FunctionDef) and part.name in features]
        rest = [ast.dump(part) for part in body if part not in own]
        rest += [ast.dump(part) for module in sorted(_imported(file, root)) for part in _body(module)]
        return cls({part.name: ast.dump(part) for part in own}, "\n".join(rest))

    def hash_of(self, name: str, needed: Sequence[str]) -> str:
        parts = [name, self.rest, self.features.get(name, ""), *needed]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def importing_from(root: Path) -> Iterator[None]:
    """Let imports find the repository's own modules, and no others of their names that this process has met."""
    before = list(sys.path)
    own = {path.stem for path in root.glob("*.py")} | {path.parent.name for path in root.glob("*/*.py")}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        if not _is_of(name, root):
            del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path[:] = before


def _is_of(name: str, root: Path) -> bool:
    """Tell whether a loaded module is of a file that is there, below ``root``."""
    loaded = getattr(sys.modules[name], "__file__", None)
    return loaded is not None and Path(loaded).is_file() and Path(loaded).resolve().is_relative_to(root.resolve())


def _import(file: Path, shown: str) -> ModuleType:
    if not file.is_file():
        raise DefinitionError(f"{shown} does not exist; it holds the functions of the view's fields")
    name = f"_featurectl_functions_{abs(hash(str(file)))}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        detail = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else error
        raise DefinitionError(f"{shown} can't be imported: {type(error).__name__}: {detail}") from error
    finally:
        del sys.modules[name]
    return module


def _feature_function(module: ModuleType, name: str, shown: str) -> FeatureFunction:
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        raise DefinitionError(f"{shown}: field '{name}' has no function; write `def {name}(close): …` there")
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise DefinitionError(
                f"{shown}: {name} has parameter '{parameter}'; write plain ones, each named as its input"
            )
    inputs = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return FeatureFunction(name, tuple(inputs), function)


def _body(file: Path) -> list[ast.stmt]:
    text = file.read_text(encoding="utf-8")
    # CPython 3.11 fails where another thread, such as one that imports Feast, parses while this one does; it comes to
    # that only by the finalizers that garbage has.
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(text).body
    finally:
        if collects:
            gc.enable()


def _imported(file: Path, root: Path) -> set[Path]:
    """Return the repository's own files that a file imports, and those that these import."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        new = {place for name in _modules(waiting.pop()) if (place := _file_of(name, root))} - found - {file}
        found |= new
        waiting += new
    return found


def _modules(file: Path) -> Iterator[str]:
    """Return the names of what a file imports: modules, and what may be modules."""
    for node in ast.walk(ast.Module(_body(file), [])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(name: str, root: Path) -> Path | None:
    place = root.joinpath(*name.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _order(functions: Mapping[str, FeatureFunction], tables: Mapping[str, Sequence[str]], shown: str) -> Iterable[str]:
    """Return the features, each after those it needs; an input by the feature's own name is a signal."""
    columns = [column for names in tables.values() for column in names]
    graph: dict[str, set[str]] = {}
    for feature in functions.values():
        for name in feature.inputs:
            if tables and name not in columns and name not in functions:
                raise DefinitionError(
                    f"{shown}: {feature.name} needs '{name}', which is neither {_listed(tables)} nor a field of the "
                    "view"
                )
        own = {feature.name} if not tables else set()
        graph[feature.name] = {name for name in feature.inputs if name in functions and name not in columns} - own
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise DefinitionError(f"{shown}: features need each other in a circle: {circle}") from error


def _listed(tables: Mapping[str, Sequence[str]]) -> str:
    named = {"candles": "a candle column", "order_book": "an order book column", "trades": "a trade column"}
    return ", ".join(f"{named[table]} ({', '.join(columns)})" for table, columns in tables.items())


def _table_of(
    feature: FeatureFunction,
    tables: Mapping[str, Sequence[str]],
    known: Mapping[str, FeatureFunction],
    shown: str,
) -> str:
    """Return the table whose columns a feature is made of, by itself and by the features it needs."""
    found = {
        known[name].table if name in known else next((table for table in tables if name in tables[table]), "")
        for name in feature.inputs
    }
    if len(found) > 1:
        raise DefinitionError(
            f"{shown}: {feature.name} needs columns of {' and '.join(sorted(found))}; a function reads one of them"
        )
    if not found and len(tables) != 1:
        choices = f"one of {_listed(tables)}" if tables else "the name of a signal"
        raise DefinitionError(f"{shown}: {feature.name} has no input; give it {choices}")
    return found.pop() if found else next(iter(tables), "")
