"""Flips: rows on which what was right became wrong, whatever the two models' accuracy says.

Of a task that writes text, right is what matches its target exactly, and where a row has any number of labels, all of
them, whatever metric the models are compared by: where that is rare, flips say little, and a note says so.

Users notice a regression on what worked before more than a gain elsewhere (S. Yan et al., Positive-congruent training:
towards regression-free model updates, CVPR 2021). The bounds of their share are Clopper and Pearson's.

The rule. ``max_harmful_flips`` works as a floor does: the share must not be above it, with ``confident`` its upper
bound must not. On the slices of the policy it is the other way round, as for ``max_drop``: a group refuses when it is
shown to be above, by the exact binomial test with Holm's correction over all groups; few rows would else refuse always.
These tests only refuse, so they spend nothing of what ``over_time`` counts.
"""

from __future__ import annotations

import numpy as np

from retrainer.artifacts.evaluation import CHAMPION, EvaluationRecord
from retrainer.gate.answers import Ints
from retrainer.gate.paired import holm, proportion_bounds, tidy
from retrainer.gate.receipt import Findings, FlipsResult, ReasonCode, SliceFlips
from retrainer.gate.slices import groups
from retrainer.gate.validity import FP32, Rows
from retrainer.spec.gate import Gate

MOST_NAMED = 100
# Share of rows that are right below which their flips say little.
RARE = 0.1


def judge_flips(
    policy: Gate, record: EvaluationRecord, rows: Rows | None, alpha: float, findings: Findings
) -> FlipsResult | None:
    """Count them, and refuse too many; ``None`` where there is no champion, or none that could be asked."""
    limit = policy.max_harmful_flips
    if rows is None or CHAMPION not in rows.answers:
        if limit is not None and record.champion_state == "none":
            findings.note("max_harmful_flips skipped: the channel has no champion yet")
        elif limit is not None and not findings.reasons:
            findings.refuse(ReasonCode.CHAMPION_UNREADABLE, "the flips could not be counted")
        return None
    challenger = rows.answers[FP32]
    right, right_champion = challenger.right(rows.labels), rows.answers[CHAMPION].right(rows.labels)
    flipped = np.flatnonzero(right_champion & ~right)
    harmful, n = int(flipped.size), int(rows.labels.size)
    if limit is not None and record.writes != "label" and (seen := float(right_champion.mean())) < RARE:
        does = "matches the target exactly" if record.writes == "text" else "has all labels right"
        findings.note(f"flips say little: the champion {does} on {seen:.1%} of the rows only")
    low, high = proportion_bounds(harmful, n, alpha)
    share = harmful / n
    judged = high if policy.confident else share
    met = limit is None or judged <= limit
    if limit is not None and not met:
        bound = f", its upper bound is {high:.2%}" if policy.confident else ""
        detail = f"{harmful:,} of {n:,} rows that the champion has right are wrong ({share:.2%}{bound})"
        findings.refuse(ReasonCode.HARMFUL_FLIPS, f"{detail}; at most {limit:.2%} may be")
    return FlipsResult(
        harmful=harmful,
        helpful=int((right & ~right_champion).sum()),
        n=n,
        share=tidy(share),
        low=tidy(low),
        high=tidy(high),
        limit=limit,
        judged=None if limit is None else tidy(judged),
        met=met,
        rows=_surest(rows, flipped),
        slices=_slices(policy, record, rows, flipped, limit, alpha, findings) if limit is not None else (),
    )


def _surest(rows: Rows, flipped: Ints) -> tuple[str, ...]:
    """Ids of the worst flips, those that the challenger is surest of; rows stand in the order of their ids, so ties do
    too.
    """
    if rows.row_ids.size == 0:
        return ()
    first = flipped[np.argsort(-rows.answers[FP32].gravity(flipped), kind="stable")][:MOST_NAMED]
    return tuple(str(rows.row_ids[at]) for at in first)


def _slices(
    policy: Gate,
    record: EvaluationRecord,
    rows: Rows,
    flipped: Ints,
    limit: float,
    alpha: float,
    findings: Findings,
) -> tuple[SliceFlips, ...]:
    """The same in each group with enough rows."""
    if policy.slices is None:
        return ()
    mask = np.zeros(rows.labels.size, dtype=bool)
    mask[flipped] = True
    # What is wrong with the groups themselves is said where their accuracy is judged.
    counted = [
        (grouping.by, value, int(n), int(harmful))
        for grouping in groups(policy.slices, rows, record.labels)[0]
        for value, n, harmful in zip(grouping.values, grouping.counts(), grouping.counts(mask), strict=True)
        if n >= policy.slices.min_rows
    ]
    from scipy import stats  # takes half a second to load

    p_values = np.array([stats.binom.sf(harmful - 1, n, limit) for _, _, n, harmful in counted])
    results = []
    for (by, value, n, harmful), p_value, corrected in zip(counted, p_values, holm(p_values), strict=True):
        above = bool(corrected <= alpha)
        if above:
            detail = f"{by} = {value}: {harmful:,} of {n:,} rows that the champion has right are wrong"
            shown = f"{harmful / n:.2%}, shown to be above {limit:.2%} (corrected p {corrected:.2g})"
            findings.refuse(ReasonCode.HARMFUL_FLIPS, f"{detail} ({shown})")
        results.append(
            SliceFlips(
                by=by, value=value, rows=n, harmful=harmful, p_value=tidy(p_value), holm=tidy(corrected), above=above
            )
        )
    return tuple(results)
