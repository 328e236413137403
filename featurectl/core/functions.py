"""A feature is a function: load a repository's functions, check them, and apply them in the order their inputs need."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class FeatureFunction:
    """One feature: the function of its name and the names of its inputs."""

    name: str
    inputs: tuple[str, ...]
    function: Callable[..., Any]

    @property
    def description(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


@dataclass(frozen=True, slots=True)
class FunctionSet:
    """The functions of one view, each after those it needs."""

    file: str
    ordered: tuple[FeatureFunction, ...]
    code_hash: str

    def compute(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """Apply the functions to equally long candle columns; infinities become NaN.

        Raises:
            DefinitionError: a function fails, or returns something else than one number a bar.
        """
        import numpy as np  # 0.1 s, and only compute needs it

        known = {name: _read_only(values) for name, values in columns.items()}
        bars = len(next(iter(columns.values())))
        computed = {}
        for feature in self.ordered:
            values = self._apply(feature, known, bars)
            computed[feature.name] = np.where(np.isfinite(values), values, np.nan)
            known[feature.name] = _read_only(computed[feature.name])
        return computed

    def _apply(self, feature: FeatureFunction, known: Mapping[str, Array], bars: int) -> Array:
        import numpy as np

        try:
            with np.errstate(all="ignore"):  # what overflows becomes null, and needs no words
                values = np.asarray(feature.function(*(known[name] for name in feature.inputs)), dtype=np.float64)
        except Exception as error:
            raise DefinitionError(f"{self.file}: {feature.name} failed: {type(error).__name__}: {error}") from error
        if values.shape != (bars,):
            raise DefinitionError(f"{self.file}: {feature.name} returned shape {values.shape} for {bars} bars")
        return values


def _read_only(values: Array) -> Array:
    """Return a view that refuses changes: a function must not alter what the next one reads."""
    view = values.view()
    view.flags.writeable = False
    return view


def load_functions(file: Path, features: Sequence[str], *, root: Path) -> FunctionSet:
    """Import ``file`` and return the functions of these features.

    Raises:
        DefinitionError: the file can't be imported, a feature has no function, an input does not exist, or inputs
            go in a circle. The message names the file and the field.
    """
    shown = str(file.relative_to(root) if file.is_relative_to(root) else file)
    with importing_from(root):
        module = _import(file, shown)
    functions = {name: _feature_function(module, name, shown) for name in features}
    ordered = tuple(functions[name] for name in _order(functions, shown))
    return FunctionSet(shown, ordered, _code_hash(file, features))


def _code_hash(file: Path, features: Sequence[str]) -> str:
    """Return a hash of the file's code and of the features; comments and layout do not count."""
    code = ast.dump(ast.parse(file.read_text(encoding="utf-8")))
    return hashlib.sha256("\n".join([code, *sorted(features)]).encode()).hexdigest()


@contextlib.contextmanager
def importing_from(root: Path) -> Iterator[None]:
    """Let imports find the repository's own modules, and no others of their names that this process has met."""
    before = list(sys.path)
    own = {path.stem for path in (*root.glob("*.py"), *root.glob("*/"))}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        if _stands_in_for_another(name, root):
            del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path[:] = before


def _stands_in_for_another(name: str, root: Path) -> bool:
    """Tell whether a loaded module is of another place than the file of its name in ``root``."""
    loaded = getattr(sys.modules[name], "__file__", None)
    place = root.joinpath(*name.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return any(file.is_file() and (loaded is None or file.resolve() != Path(loaded).resolve()) for file in files)


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


def _order(functions: Mapping[str, FeatureFunction], shown: str) -> Iterable[str]:
    graph: dict[str, set[str]] = {}
    for feature in functions.values():
        for name in feature.inputs:
            if name not in CANDLE_COLUMNS and name not in functions:
                raise DefinitionError(
                    f"{shown}: {feature.name} needs '{name}', which is neither a candle column "
                    f"({', '.join(CANDLE_COLUMNS)}) nor a field of the view"
                )
        graph[feature.name] = {name for name in feature.inputs if name in functions and name not in CANDLE_COLUMNS}
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise DefinitionError(f"{shown}: features need each other in a circle: {circle}") from error
