"""Whether functions keep to what was known: features of a truncated history, and of other beginnings of it."""

from __future__ import annotations

from featurectl.core.lookahead.probe import Deviation
from featurectl.core.lookahead.run import Asked, Lookahead, Looked, Verdict, find_lookahead

__all__ = ["Asked", "Deviation", "Lookahead", "Looked", "Verdict", "find_lookahead"]
