"""Expectations and rules of candles, held to what the history of features holds."""

from featurectl.core.checks.report import CheckReport, Offence, Outcome, Severity, Verdict, describe
from featurectl.core.checks.run import run_checks, selected
from featurectl.core.checks.settings import CandleRule, CheckSettings, read_settings

__all__ = [
    "CandleRule",
    "CheckReport",
    "CheckSettings",
    "Offence",
    "Outcome",
    "Severity",
    "Verdict",
    "describe",
    "read_settings",
    "run_checks",
    "selected",
]
