"""How the challenger compares with other models, in words: champion, anchor, baseline, and what it changed in rows.

Not here: its own figures (``decision.py``), any arithmetic (``gate``).
"""

from __future__ import annotations

from retrainer.artifacts.measures import Interval, Overturn
from retrainer.gate.receipt import Receipt
from retrainer.report.presentation import Part, describe_interval, part, percent
from retrainer.spec.gate import Gate
from retrainer.tasks import TASKS, Writes

# What is right, where that is not simply the label.
_RIGHT = {
    "text": ["Right is what matches its target exactly."],
    "labels": ["Right is a row that is given all of its labels and no other."],
}


def writes_of(receipt: Receipt) -> Writes:
    """What a model of the task gives back."""
    task = TASKS.get(receipt.task)
    return task.writes if task is not None else "label"


def confidence(policy: Gate) -> str:
    """Of an interval whose ends are one-sided bounds at the policy's alpha: ``90 %``."""
    return percent(1 - 2 * policy.alpha)


_NOT_COMPARED = {
    "none": "The channel has no champion yet, so there was nothing to compare with.",
    "unreadable": "The channel has a champion, but it could not be read or scored, so nothing was compared.",
    "present": "The challenger was not compared with the champion.",
}


def comparison_part(receipt: Receipt) -> Part:
    """The difference to the champion, and how little it would take to overturn what it says."""
    champion = [f"The champion is version {receipt.champion_version}."] if receipt.champion_version else []
    sentences = compared(receipt.comparison, receipt.threshold, receipt.rows_needed)
    if receipt.overturn is not None:
        sentences.append(overturned(receipt.overturn))
    return part(
        "comparison", "Against what is live", *champion, *(sentences or [_NOT_COMPARED[receipt.champion_state]])
    )


def anchor_part(receipt: Receipt) -> Part:
    """What may be lost over all decisions together."""
    found = receipt.anchor
    if found is None:
        return part("anchor", "Against the anchor")
    who = "the champion" if found.is_champion else f"version {found.version}"
    sentences = [f"The anchor is {who}: at most {found.max_loss:g} may be lost against it, over all decisions."]
    if not found.is_champion:
        sentences += compared(found.comparison, -found.max_loss, found.rows_needed)
    if found.waived:
        sentences.append("It is not asked: the challenger is shown to be better than the champion.")
    if receipt.anchor_moves:
        sentences.append("The challenger is shown to be better than the anchor and becomes it when it is published.")
    return part("anchor", "Against the anchor", *sentences)


def over_time_part(receipt: Receipt) -> Part:
    """What the decision spent of the error that the channel may make."""
    spending, standing = receipt.spending, receipt.standing
    if spending is None or standing is None or spending.control == "none":
        return part("over_time", "Over time")
    again = f", period {spending.period:,}" if spending.period > 1 else ""
    first = f"Decision {spending.decision:,} of {spending.decisions:,} of the channel{again}"
    best = f", the best of {standing.looks:,} looks" if standing.looks > 1 else ""
    looks = f"these rows had been looked at {standing.row_looks:,} times, in {standing.row_decisions:,} decisions"
    alpha = receipt.policy.over_time.alpha
    return part(
        "over_time",
        "Over time",
        f"{first}{best}; {looks}.",
        f"It is taken at a level of {spending.level:.2g} ({spending.control}), a single one would be at "
        f"{spending.nominal:g}.",
        f"Of {alpha:g} there is {spending.left:.2g} left for the channel, {spending.rows_left:.2g} for these rows.",
    )


def flips_part(receipt: Receipt) -> Part:
    """Rows that the champion has right and the challenger wrong, and the other way round."""
    found = receipt.flips
    if found is None:
        return part("flips", "Flips")
    allowed = f"; at most {found.limit:.2%} may be" if found.limit is not None else ""
    return part(
        "flips",
        "Flips",
        f"{found.harmful:,} of {found.n:,} rows that the champion has right are wrong with the challenger "
        f"({found.share:.2%}, {confidence(receipt.policy)} interval {found.low:.2%} to {found.high:.2%}{allowed}); "
        f"{found.helpful:,} the other way round.",
        *_RIGHT.get(writes_of(receipt), []),
    )


def compared(comparison: Interval | None, threshold: float | None, rows_needed: int | None) -> list[str]:
    """The difference with its interval, what the interval has to exceed, and how many rows would tell."""
    if comparison is None:
        return []
    sentences = [describe_interval(comparison)]
    if threshold is not None:
        sentences.append(f"The whole interval must be above {threshold:+g}.")
    if rows_needed is not None:
        sentences.append(f"About {rows_needed:,} test rows would tell.")
    return sentences


def overturned(found: Overturn) -> str:
    """How many wrong test labels it would take for the comparison to come out otherwise."""
    where = f"the {found.rows:,} rows on which the models differ" if found.rows != 1 else "the row on which they differ"
    if found.labels is None:
        return f"No number of wrong labels among {where} would overturn this."
    about = "" if found.exact else "About "
    count = f"{about}{found.labels:,} wrong label{'s' * (found.labels != 1)}"
    return f"{count} among {where} would overturn this{'' if found.exact else ', by an estimate'}."


_ASKED_OF_BASELINE = {
    "report": "The gate does not judge by it.",
    "not_worse": "The gate refuses a challenger that is worse than it, beyond chance.",
    "floor": "The gate demands a gain over it.",
}


def baseline_part(receipt: Receipt) -> Part:
    """Whether a simple model would do."""
    title = "Against a simple baseline"
    if writes_of(receipt) == "text":
        return part("baseline", title, "There is none: TF-IDF with logistic regression does not write text.")
    if receipt.baseline_comparison is None:
        return part("baseline", title, "No baseline was compared with.")
    asked = _ASKED_OF_BASELINE[receipt.policy.baseline]
    how = ", each label by itself with a threshold of 0.5" if writes_of(receipt) == "labels" else ""
    baseline = f"The baseline is TF-IDF with logistic regression{how}, fitted in seconds on the same rows."
    return part("baseline", title, f"{baseline} {asked}", describe_interval(receipt.baseline_comparison))
