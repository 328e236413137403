"""Scores of signals to features: at an instant counts the newest score, as long as it is valid.

Instants and validities are microseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurectl.core.functions import FeatureFunction, FunctionSet
from featurectl.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one name in order of time; of several at one time the last one counts."""

    times: Ints
    values: Floats

    def at(self, instants: Ints) -> tuple[Floats, Ints]:
        """Return the newest score at each instant, and how old it is; NaN, and no age that is valid, without one."""
        import numpy as np  # 0.1 s, and only compute needs it

        places = np.searchsorted(self.times, instants, side="right") - 1
        values, ages = np.full(len(instants), np.nan), np.full(len(instants), np.iinfo(np.int64).max)
        there = places >= 0
        values[there] = self.values[places[there]]
        ages[there] = instants[there] - self.times[places[there]]
        return values, ages


@dataclass(frozen=True, slots=True)
class ScoreFunctions:
    """The functions of a view computed from signals, and for how long the scores are valid that each field reads."""

    functions: FunctionSet
    validities: Mapping[str, int]

    def __post_init__(self) -> None:
        for feature in self.functions.ordered:
            if not feature.inputs:
                raise DefinitionError(
                    f"{self.functions.file}: {feature.name} has no input; name a signal as its parameter"
                )

    @property
    def signals(self) -> list[str]:
        """The names of the signals that are read."""
        return sorted({name for feature in self.functions.ordered for name in self._signals_of(feature)})

    @property
    def reach(self) -> int:
        """For how long after its time a score may count."""
        return max(self.validities[feature.name] for feature in self.functions.ordered if self._signals_of(feature))

    @property
    def hashes(self) -> dict[str, str]:
        """What each feature depends on beside the scores: its function and validity, and those of features it reads."""
        hashes: dict[str, str] = {}
        for feature in self.functions.ordered:
            needed = [hashes[name] for name in feature.inputs if name not in self._signals_of(feature)]
            parts = [feature.hash, str(self.validities[feature.name]), *needed]
            hashes[feature.name] = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        return hashes

    def at(self, instants: Ints, scores: Mapping[str, Scores]) -> tuple[dict[str, Floats], Mask]:
        """Return the features at these instants, and where a score is valid of those that they read.

        Raises:
            DefinitionError: a function fails.
        """
        import numpy as np

        newest = {name: one.at(instants) for name, one in scores.items()}
        features: dict[str, Floats] = {}
        any_valid = np.zeros(len(instants), dtype=bool)
        for feature in self.functions.ordered:
            columns = {}
            for name in feature.inputs:
                if name not in self._signals_of(feature):
                    columns[name] = features[name]
                    continue
                values, ages = newest[name]
                valid = ages <= self.validities[feature.name]
                any_valid |= valid
                columns[name] = np.where(valid, values, np.nan)
            alone = FunctionSet(self.functions.file, (feature,))
            features[feature.name] = alone.compute(columns)[feature.name]
        return features, any_valid

    def _signals_of(self, feature: FeatureFunction) -> list[str]:
        """Return which inputs are signals: those that no other field has the name of."""
        fields = self.functions.hashes.keys() - {feature.name}
        return [name for name in feature.inputs if name not in fields]
