"""A decision in a few lines for people: the command line, a task log, a report. Pure and light."""

from __future__ import annotations

from retrainer.gate.records import Interval, Leakage, Receipt
from retrainer.spec.model import Gate


def explain(receipt: Receipt) -> list[str]:
    """Verdict first, then each reason with its numbers, the comparison, the scores, what was skipped."""
    lines = [_headline(receipt)]
    lines += [f"  - {reason.detail} [{reason.code.value}]" for reason in receipt.reasons]
    if receipt.comparison is not None:
        lines.append(f"  against champion {receipt.champion_version}: {describe_interval(receipt.comparison)}")
        if receipt.threshold is not None:
            lines.append(f"    the whole interval must lie above {receipt.threshold:+g}")
    if receipt.baseline_comparison is not None:
        lines.append(f"  against TF-IDF with logistic regression: {describe_interval(receipt.baseline_comparison)}")
    lines += [f"  floor {floor}" for floor in _floors(receipt)]
    scores = _scores(receipt)
    if scores:
        lines.append(f"  scores on {receipt.rows:,} rows, with {confidence(receipt.policy)} intervals: {scores}")
    if receipt.selection is not None:
        lines.append(f"  base model {receipt.selection.chosen}: {receipt.selection.why}")
    if twice := describe_leakage(receipt.leakage):
        lines.append(f"  rows in two places: {twice}")
    lines += [f"  note: {note}" for note in receipt.notes]
    return lines


def confidence(policy: Gate) -> str:
    """Of an interval whose ends are one-sided bounds at the policy's alpha: ``90 %``."""
    return f"{100 * (1 - 2 * policy.alpha):.4g} %"


def describe_interval(interval: Interval) -> str:
    """``accuracy +0.0120, 90 % interval [+0.0010, +0.0230] (Tango score interval, 2,000 rows, ...)``."""
    return (
        f"{interval.metric} {interval.estimate:+.4f}, {100 * interval.confidence:.4g} % interval "
        f"[{interval.low:+.4f}, {interval.high:+.4f}] "
        f"({interval.method}, {interval.n:,} rows, {interval.disagreements:,} predicted differently)"
    )


def describe_leakage(leakage: Leakage) -> str:
    """``12 train in test, 31 more nearly; 14 test in the champion's training rows``; empty where there was none."""
    champion = "test in the champion's training rows"
    exact = {**leakage.exact, champion: leakage.champion_exact}
    near = {**leakage.near, champion: leakage.champion_near}
    parts = []
    for name in dict.fromkeys([*exact, *near]):
        same, alike = exact.get(name, 0), near.get(name, 0)
        if same or alike:
            parts.append(f"{same:,} {name.replace('_', ' ')}" + (f", {alike:,} more nearly" if alike else ""))
    return "; ".join(parts)


def _headline(receipt: Receipt) -> str:
    if receipt.promoted:
        precisions = ", ".join(receipt.publishable)
        return f"PROMOTE {receipt.model}: {precisions} may go live"
    count = len(receipt.reasons)
    return f"REFUSE {receipt.model}: {count} reason{'s' if count != 1 else ''}, production does not change"


def _floors(receipt: Receipt) -> list[str]:
    lines = []
    for floor in receipt.floors:
        shown = "no value" if floor.judged is None else f"{floor.judged:.4f}"
        bound = " (confidence bound)" if receipt.policy.confident else ""
        lines.append(f"{floor.metric}: {shown}{bound} against {floor.bound:g}: {'met' if floor.met else 'missed'}")
    return lines


def _scores(receipt: Receipt) -> str:
    challenger = receipt.metrics.get("fp32", {})
    champion = receipt.metrics.get("champion", {})
    parts = []
    for name, score in challenger.items():
        if score.value is None:
            continue
        before = champion.get(name)
        against = f" (champion {before.value:.4f})" if before is not None and before.value is not None else ""
        bounds = "" if score.low is None or score.high is None else f" [{score.low:.4f}, {score.high:.4f}]"
        parts.append(f"{name} {score.value:.4f}{bounds}{against}")
    return ", ".join(parts)
