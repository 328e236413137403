"""What checks and comparisons of online with offline found, as a report's page shows it: the worst first."""

from __future__ import annotations

from featurectl.core.checks import CheckReport, describe
from featurectl.core.checks import Outcome as Checked
from featurectl.core.consistency.verdicts import Consistency, Tally
from featurectl.core.report.drifted import verdict_of
from featurectl.core.report.model import Checks, Compared, Missing, Outcome, Verdict, worst

# Lines of a table that a page can hold.
MOST_OUTCOMES = 40


def checks_section(found: CheckReport) -> Checks | Missing:
    """Return the section of checks: the findings, worst first, and how many there were of all."""
    looked = [one for one in found.outcomes if one.rows or one.verdict != "ok"]
    if not looked and not found.unreadable:
        return Missing("There is nothing to check in this window.")
    verdicts = [verdict_of(one.verdict) for one in looked] + [Verdict.FAIL for _ in found.unreadable]
    return Checks(
        outcomes=tuple(map(_outcome, found.findings[:MOST_OUTCOMES])),
        total=len(looked),
        passed=sum(one.verdict == "ok" for one in looked),
        verdict=worst(verdicts),
        unreadable=tuple((one.view, one.error) for one in found.unreadable),
    )


def _outcome(one: Checked) -> Outcome:
    target = f"{one.view}: {one.feature}" if one.feature else one.view
    return Outcome(one.rule, target, verdict_of(one.verdict), one.offending, one.rows, describe(one))


def consistency_section(found: Consistency) -> tuple[Compared, ...] | Missing:
    """Return what online and offline have in common; views of which nothing was compared are left out."""
    compared = [one for one in found.tallies if one.match + _faults(one)]
    return tuple(map(_compared, compared)) or Missing("Nothing could be compared: no feature is online.")


def _compared(one: Tally) -> Compared:
    verdict = Verdict.FAIL if _faults(one) else Verdict.OK
    counts = (one.match, one.mismatch, one.missing, one.extra, one.stale)
    pair = {"online": "online with history", "computed": "history with computed again"}.get(one.pair, one.pair)
    return Compared(one.view, pair, verdict, one.entities, one.of, counts, one.reason or "")


def _faults(one: Tally) -> int:
    return one.mismatch + one.missing + one.extra + one.stale
