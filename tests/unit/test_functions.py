"""A feature is a function: what a functions file may hold, its order of work, and what is said when it is wrong."""

from __future__ import annotations

import ast
import contextlib
import gc
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from featurectl.core.functions import CANDLE_COLUMNS, FunctionSet, load_functions
from featurectl.errors import DefinitionError
from tests.fix_repository import CHECKOUT

CLOSE = np.array([1.0, 2.0, 4.0])


def load(tmp_path: Path, text: str, *features: str) -> FunctionSet:
    file = tmp_path / "indicators.py"
    file.write_text(text, encoding="utf-8")
    return load_functions(file, features, root=tmp_path)


def columns(close: np.ndarray = CLOSE) -> dict[str, np.ndarray]:
    return {name: close.copy() for name in CANDLE_COLUMNS}


def test_a_function_gets_the_columns_its_parameters_name(tmp_path: Path) -> None:
    functions = load(tmp_path, "def spread(high, low): return high - low", "spread")
    values = functions.compute(columns() | {"high": np.array([3.0, 5.0, 9.0]), "low": np.array([1.0, 1.0, 1.0])})
    assert values["spread"].tolist() == [2.0, 4.0, 8.0]


def test_features_may_need_features_whatever_order_they_are_named_in(tmp_path: Path) -> None:
    text = "def c(a, b): return a + b\ndef b(a): return a * 10\ndef a(close): return close + 1"
    functions = load(tmp_path, text, "c", "b", "a")
    assert [feature.name for feature in functions.ordered] == ["a", "b", "c"]
    assert functions.compute(columns())["c"].tolist() == [22.0, 33.0, 55.0]


def test_a_parameter_with_a_default_is_a_setting_and_not_an_input(tmp_path: Path) -> None:
    functions = load(tmp_path, "def f(close, factor=3): return close * factor", "f")
    assert functions.ordered[0].inputs == ("close",)
    assert functions.compute(columns())["f"].tolist() == [3.0, 6.0, 12.0]


def test_a_feature_may_have_the_name_of_a_candle_column_and_still_read_it(tmp_path: Path) -> None:
    functions = load(tmp_path, "def close(close): return close * 2", "close")
    assert functions.compute(columns())["close"].tolist() == [2.0, 4.0, 8.0]


def test_the_description_is_the_docstrings_first_line(tmp_path: Path) -> None:
    functions = load(tmp_path, 'def f(close):\n    """Twice the close.\n\n    More."""\n    return close', "f")
    assert functions.ordered[0].description == "Twice the close."


def test_infinities_become_nan(tmp_path: Path) -> None:
    text = "import numpy as np\ndef f(close): return np.array([np.inf, -np.inf, np.nan])"
    assert np.isnan(load(tmp_path, text, "f").compute(columns())["f"]).all()


def test_later_features_see_nan_where_an_earlier_one_was_infinite(tmp_path: Path) -> None:
    text = "import numpy as np\ndef a(close): return np.full(3, np.inf)\ndef b(a): return np.isnan(a)"
    assert load(tmp_path, text, "a", "b").compute(columns())["b"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "body", ["close.tolist()", "(close > 1)", "close.astype('float32')", "__import__('pandas').Series(close)"]
)
def test_anything_that_is_one_number_a_bar_is_taken(tmp_path: Path, body: str) -> None:
    values = load(tmp_path, f"def f(close): return {body}", "f").compute(columns())["f"]
    assert values.dtype == np.float64 and values.shape == (3,)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", "indicators.py: f failed: ZeroDivisionError: division by zero"),
        ("undefined", "indicators.py: f failed: NameError: name 'undefined' is not defined"),
        ("['a', 'b', 'c']", "indicators.py: f failed: ValueError: could not convert string to float"),
        ("close[1:]", r"indicators.py: f returned shape \(2,\) for 3 rows"),
        ("close.mean()", r"indicators.py: f returned shape \(\) for 3 rows"),
        ("None", r"indicators.py: f returned shape \(\) for 3 rows"),
        ("close.reshape(3, 1)", r"indicators.py: f returned shape \(3, 1\) for 3 rows"),
    ],
)
def test_a_function_that_fails_or_returns_something_else_is_named(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        load(tmp_path, f"def f(close): return {body}", "f").compute(columns())


def test_a_function_cannot_change_what_the_next_one_reads(tmp_path: Path) -> None:
    text = "def a(close):\n    close *= 2\n    return close\ndef b(close): return close"
    candles = columns()
    with pytest.raises(DefinitionError, match=r"a failed: ValueError: .*read-only"):
        load(tmp_path, text, "a", "b").compute(candles)
    assert candles["close"].tolist() == CLOSE.tolist()
    assert candles["close"].flags.writeable


@pytest.mark.parametrize(
    ("text", "features", "message"),
    [
        ("x = 1", ["f"], r"indicators.py: field 'f' has no function; write `def f\(close\): …` there"),
        ("f = 1", ["f"], "field 'f' has no function"),
        ("def f(closing): ...", ["f"], "f needs 'closing', which is neither a candle column .*close.* nor a field"),
        ("def f(g): ...\ndef g(close): ...", ["f"], "f needs 'g', which is neither"),
        ("def f(*columns): ...", ["f"], r"f has parameter '\*columns'"),
        ("def f(g): ...\ndef g(f): ...", ["f", "g"], "features need each other in a circle: (f -> g -> f|g -> f -> g)"),
        ("def f(f): ...", ["f"], "in a circle: f -> f"),
        ("def f(:", ["f"], "indicators.py can't be imported: SyntaxError: line 1: "),
        ("import no_such_module", ["f"], "can't be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", ["f"], "can't be imported: ZeroDivisionError"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, features: list[str], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        load(tmp_path, text, *features)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"indicators\.py does not exist"):
        load_functions(tmp_path / "indicators.py", ["f"], root=tmp_path)


def test_loading_leaves_no_module_behind_and_reads_the_file_as_it_is_now(tmp_path: Path) -> None:
    before = set(sys.modules)
    assert load(tmp_path, "def f(close): return close", "f").compute(columns())["f"][0] == 1
    assert load(tmp_path, "def f(close): return close + 5", "f").compute(columns())["f"][0] == 6
    assert not {name for name in set(sys.modules) - before if "functions" in name}


def test_the_default_definitions_load() -> None:
    names = ["rsi_14", "macd", "ema_20", "bollinger_bands_position", "atr", "volume_sma_ratio"]
    functions = load_functions(CHECKOUT / "feature_repo" / "indicators.py", names, root=CHECKOUT)
    assert functions.file == "feature_repo/indicators.py"
    assert all(feature.description for feature in functions.ordered)


@pytest.mark.parametrize("parameters", ["*close", "**columns", "close, *, high"])
def test_parameters_that_are_no_plain_inputs_are_refused(tmp_path: Path, parameters: str) -> None:
    with pytest.raises(DefinitionError, match=r"f has parameter '.*'; write plain ones"):
        load(tmp_path, f"def f({parameters}): return 1", "f")


def test_a_module_of_the_repository_belongs_to_the_code_that_imports_it(tmp_path: Path) -> None:
    helper, deeper = tmp_path / "helper.py", tmp_path / "deeper.py"
    helper.write_text("from deeper import FACTOR\ndef scale(x): return x * FACTOR\n")
    deeper.write_text("FACTOR = 1\n")
    text = "from helper import scale\ndef f(close): return scale(close)\ndef g(close): return close\n"
    before = load(tmp_path, text, "f", "g").hashes
    assert load(tmp_path, text, "f", "g").hashes == before
    deeper.write_text("FACTOR = 2  # a comment beside it\n")
    after = load(tmp_path, text, "f", "g").hashes
    assert all(after[name] != before[name] for name in "fg")
    deeper.write_text("FACTOR = 2\n")
    assert load(tmp_path, text, "f", "g").hashes == after


def test_functions_load_while_another_thread_parses_code(tmp_path: Path) -> None:
    class Garbage:
        """Lets other threads run when it is collected, again and again."""

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            time.sleep(0.0002)
            if not done.is_set():
                Garbage()

    def parse() -> None:
        while not done.is_set():
            with contextlib.suppress(SystemError):  # what CPython 3.11 answers
                ast.parse(text)

    text, done = Path(ast.__file__).read_text(encoding="utf-8"), threading.Event()
    functions = "\n".join(f"def f{number}(close): return close + {number} * (close - 1)" for number in range(20))
    thread, before = threading.Thread(target=parse), gc.get_threshold()
    thread.start()
    gc.set_threshold(50)
    try:
        Garbage()
        for _ in range(3):
            load(tmp_path, functions, "f7")
    finally:
        gc.set_threshold(*before)
        done.set()
        thread.join()
