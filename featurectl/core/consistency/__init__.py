"""Whether features are the same online, in their history, and computed again: a sample of entities, read three ways."""

from __future__ import annotations

from featurectl.core.consistency.asked import Asked
from featurectl.core.consistency.run import find_differences
from featurectl.core.consistency.verdicts import Consistency, Difference, Pair, Tally, Verdict

__all__ = ["Asked", "Consistency", "Difference", "Pair", "Tally", "Verdict", "find_differences"]
