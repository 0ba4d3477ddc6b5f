"""A check of a published model in words: why its verdict is what it is, the lines of a log, Markdown."""

from __future__ import annotations

from retrainer.artifacts.decay import DecayCode, DecayRecord, LabelShare, LeftOut
from retrainer.artifacts.measures import Score
from retrainer.report.figures import aligned, counted_rows, number
from retrainer.spec.problems import listed

# From so much on a label's share is worth a line.
WORTH_SAYING_SHARE = 0.02
MOST_SHARES = 5


def in_words(record: DecayRecord) -> str:
    """Why the verdict is what it is, in a sentence with the numbers."""
    match record.code:
        case DecayCode.NO_CHAMPION:
            return f"{record.channel} serves nothing yet"
        case DecayCode.NOT_SCORED_BEFORE:
            return f"the receipt of version {record.version} has no interval of {record.metric} to compare with"
        case DecayCode.ORIGIN_UNKNOWN:
            return (
                f"the snapshot that version {record.version} came from is not in this artifact root, so that new rows "
                "cannot be told from those that chose or judged it"
            )
        case DecayCode.TOO_FEW_ROWS:
            return f"{counted_rows(record.rows)} that it has not seen, and decay.min_rows is {record.min_rows:,}"
        case DecayCode.METRIC_UNDEFINED:
            unknown = f"; it does not know {listed(record.unknown_labels)}" if record.unknown_labels else ""
            return f"{record.metric} has no value on {counted_rows(record.rows)} that it has not seen{unknown}"
        case DecayCode.DROP_TOO_LARGE | DecayCode.WITHIN | DecayCode.NOT_TOLD:
            return _of_drop(record)


def _of_drop(record: DecayRecord) -> str:
    drop, before, now = record.drop, record.before, record.now
    if drop is None or before is None or now is None:
        raise ValueError(f"a check that came out as {record.code} has a drop")
    said = {
        DecayCode.DROP_TOO_LARGE: "more than",
        DecayCode.WITHIN: "not more than",
        DecayCode.NOT_TOLD: "which does not tell whether it is more than",
    }[record.code]
    scores = (
        f"{record.metric} {number(now.value)} on {counted_rows(record.rows)} that it has not seen, "
        f"{number(before.value)} at its decision"
    )
    interval = f"interval [{drop.low:+.4f}, {drop.high:+.4f}]"
    return f"{scores}: a drop of {drop.estimate:+.4f}, {interval}, {said} {record.max_drop:g}{_of_mix(record)}"


def _of_mix(record: DecayRecord) -> str:
    """Whether the drop comes from another mix of labels."""
    if record.at_old_shares is None or record.now is None or record.now.value is None:
        return ""
    if not any(_moved(share) for share in record.shares):
        return ""
    return f"; with the label shares of its decision it would be {number(record.at_old_shares)}"


def _moved(share: LabelShare) -> bool:
    return abs(share.now - share.before) >= WORTH_SAYING_SHARE


def decay_lines(record: DecayRecord) -> list[str]:
    """The check for a log."""
    facts = [("why", record.text)]
    for name, score, rows in (("before", record.before, record.before_rows), ("now", record.now, record.rows)):
        if score is not None and score.value is not None:
            facts.append((f"{record.metric} {name}", f"{_score(score)} on {counted_rows(rows)}"))
    if record.left_out.rows or record.left_out.near_unknown:
        facts.append(("left out", _left_out(record.left_out)))
    moved = [share for share in record.shares if _moved(share)][:MOST_SHARES]
    if moved:
        facts.append(("label shares", ", ".join(f"{one.label} {one.before:.2f} -> {one.now:.2f}" for one in moved)))
    if record.unknown_labels:
        counted = ", ".join(f"{name} {rows:,}" for name, rows in record.unknown_labels.items())
        facts.append(("labels that it does not know", counted))
    version = f"version {record.version} on {record.channel}" if record.version else record.channel
    return [f"{record.verdict.upper()} {record.model}, {version}", *aligned(tuple(facts)).splitlines()]


def decay_markdown(record: DecayRecord) -> str:
    """The same for people who read XCom."""
    headline, *lines = decay_lines(record)
    return f"**{headline}**\n\n```\n" + "\n".join(lines) + "\n```\n"


def _score(score: Score) -> str:
    interval = f" [{score.low:.4f}, {score.high:.4f}]" if score.low is not None and score.high is not None else ""
    return f"{number(score.value)}{interval}"


def _left_out(left: LeftOut) -> str:
    parts = {
        "trained on": left.train,
        "nearly trained on": left.near,
        "its validation rows": left.validation,
        "its test rows": left.test,
    }
    said = ", ".join(f"{what} {rows:,}" for what, rows in parts.items() if rows)
    unknown = f"near duplicates were not looked for: {left.near_unknown}" if left.near_unknown else ""
    return "; ".join(filter(None, (said, unknown)))
