"""A comparison of two models in sentences and tables, for the terminal and the console. Pure and light."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from retrainer.artifacts.measures import Interval
from retrainer.audit.compared import Answered, Compared, Fact, Group, OnCommonRows, Right, Side, Which
from retrainer.report.figures import counted_rows
from retrainer.report.flips import cut
from retrainer.report.presentation import Cell, Part, Row, part, percent, probability, scored, signed

_DIGITS = 8
_KINDS = {"model": "model", "training": "training", "data": "data", "libraries": "library"}
_WHOLE = {"model": "the base model", "training": "the training's arguments", "data": "the data"}
RIGHT: Mapping[Right, str] = {
    "both": "both are right",
    "a": "only A is right",
    "b": "only B is right",
    "neither": "both are wrong",
}


def called(side: Side) -> str:
    """A side by the first digits of its name."""
    return f"{'version' if side.published else 'challenger'} {side.name[:_DIGITS]}"


def parts(compared: Compared) -> dict[str, Part]:
    """Every part of the comparison under its name, also those that say nothing."""
    found = compared.on_rows
    made = [_rows(compared)]
    if found is not None:
        made += [_scores(found), _right(found), _groups(found), _mixed(found), _differing(found)]
    return {one.name: one for one in [*made, _costs(compared), _made(compared)]}


def _rows(compared: Compared) -> Part:
    title = f"A is {called(compared.a)}, B is {called(compared.b)}"
    found = compared.on_rows
    if found is None:
        return part("rows", title, *([compared.why_not] if compared.why_not else []))
    return part("rows", title, *_why_not_all(compared, found))


def _why_not_all(compared: Compared, found: OnCommonRows) -> Iterator[str]:
    """How many rows are common, and why it is not all."""
    if found.evaluation_a == found.evaluation_b:
        yield f"One evaluation asked both of them: all its {counted_rows(found.rows)} are compared."
    elif found.rows == found.asked_a == found.asked_b:
        yield f"Two evaluations asked them the same {counted_rows(found.rows)}."
    else:
        yield (
            f"Both were asked {counted_rows(found.rows)}. The evaluation of A has {found.asked_a:,}, that of B "
            f"{found.asked_b:,}: the others are in one of them only, as data grows, and as rows are left out that a "
            "model was trained on."
        )
    if found.relabelled:
        yield (
            f"Of {counted_rows(found.relabelled)} the label was another one when they were first asked. What counts "
            "here is the later one."
        )
    if found.left_out:
        yield f"{counted_rows(found.left_out)} are left out, since the right texts are others in the two evaluations."
    yield from _by_which_graphs(compared, found)
    for mine, theirs, name in ((compared.a, compared.b, "A"), (compared.b, compared.a, "B")):
        if unknown := sorted(set(theirs.labels) - set(mine.labels)):
            yield f"{name} does not know {', '.join(unknown)}: rows with such a label it has wrong."


def _by_which_graphs(compared: Compared, found: OnCommonRows) -> Iterator[str]:
    """The precision of the answers, with a warning where another one is served, or they are not of one."""
    a, b = found.precision_a, found.precision_b
    if a == b:
        yield f"Both answered in {a}."
    else:
        yield f"Warning: A answered in {a} and B in {b}, so that a difference may be one of precision alone."
    served_a, served_b = compared.a.served or a, compared.b.served or b
    if (served_a, served_b) != (a, b):
        served = f"{served_a} of both" if served_a == served_b else f"{served_a} of A and {served_b} of B"
        yield (
            f"{'Warning: c' if served_a != served_b else 'C'}lients run {served} where their processor gives the "
            "golden answers: what that changes is not in these figures, but in the receipt of each."
        )


def _scores(found: OnCommonRows) -> Part:
    def row(at: int) -> Row:
        one = found.scores[at]
        less = "less is better" if one.lower_is_better else ""
        return Cell(one.metric, less), scored(one.a), scored(one.b), _difference(one.difference), _who(one.difference)

    confidence = percent(1 - 2 * found.alpha)
    return part(
        "scores",
        "Scores on the common rows",
        f"A difference is A minus B, positive where A is better; each interval holds the truth with {confidence}.",
        caption="Both by each metric",
        head=("metric", "A", "B", "A is better by", ""),
        rows=(row(at) for at in range(len(found.scores))),
    )


def _difference(interval: Interval | None) -> Cell:
    return Cell("-") if interval is None else Cell(signed(interval.estimate), interval.range)


def _who(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("")
    better = shown_better(interval)
    return Cell(f"{better.upper()} is better" if better else "cannot be told", mark="plain")


def shown_better(interval: Interval) -> Which | None:
    """The one that is shown to be better."""
    return "a" if interval.low > 0 else "b" if interval.high < 0 else None


def headline(metric: str, interval: Interval) -> str:
    """Who is better, or that it cannot be told, in one line."""
    name, on = metric.replace("_", " "), f"on {counted_rows(interval.n)}"
    better = shown_better(interval)
    if better is None:
        return f"Which is better cannot be told: {name} differs by {signed(interval.estimate)} {interval.range} {on}"
    return f"{better.upper()} is better: {name} differs by {signed(interval.estimate)} {interval.range} {on}"


def _right(found: OnCommonRows) -> Part:
    counts: Mapping[Right, int] = {
        "both": found.right.both,
        "a": found.right.a,
        "b": found.right.b,
        "neither": found.right.neither,
    }
    return part(
        "right",
        "Who is right where",
        f"They say the same on {found.right.alike:,} of {counted_rows(found.rows)}.",
        caption="Rows by who is right",
        head=("rows on which", "rows", "share"),
        rows=((RIGHT[name], f"{count:,}", percent(round(count / found.rows, 4))) for name, count in counts.items()),
    )


def _groups(found: OnCommonRows) -> Part:
    def row(one: Group) -> Row:
        if one.difference is None:
            mark = Cell("too few rows", mark="plain")
        else:
            mark = Cell(f"{one.better.upper()} is better", mark="plain") if one.better else Cell("")
        return (
            group_name(one),
            f"{one.rows:,}",
            f"{one.a:.4f}",
            f"{one.b:.4f}",
            _difference(one.difference),
            probability(one.holm),
            mark,
        )

    return part(
        "groups",
        "Groups of rows",
        f"By {found.metric}, the largest differences first. p is corrected for their number by Holm's method; the "
        "intervals are not.",
        caption="Every group, with its score",
        head=("rows with", "rows", "A", "B", "A minus B", "p", ""),
        rows=map(row, found.groups),
    )


def group_name(group: Group) -> str:
    """What its rows have in common."""
    return f"{group.by} = {group.value}"


def _mixed(found: OnCommonRows) -> Part:
    return part(
        "mixed",
        "Mistakes that one makes more often",
        caption="Rows by mistake",
        head=("true label", "said instead", "rows", "A", "B", "A minus B"),
        rows=(
            (one.true, one.said, f"{one.of:,}", f"{one.a:,}", f"{one.b:,}", f"{one.a - one.b:+,}")
            for one in found.mixed
        ),
    )


def _differing(found: OnCommonRows) -> Part:
    has_texts = any(one.text is not None for one in found.differing)
    has_answers = any(one.a is not None for one in found.differing)

    def row(one: Answered) -> Row:
        said = (cut(one.true or ""), _said(one.a, one.sure_a), _said(one.b, one.sure_b)) if has_answers else ()
        only = () if has_answers else (_figure(one.sure_a), _figure(one.sure_b))
        return one.row_id, *((cut(one.text or ""),) if has_texts else ()), RIGHT[one.right], *said, *only

    text = ("text",) if has_texts else ()
    return part(
        "differing",
        "Rows on which they differ",
        "Of each kind those that are the surest mistakes.",
        head=("row", *text, "who is right", *(("true", "A", "B") if has_answers else ("A", "B"))),
        rows=map(row, found.differing),
    )


def _said(answer: str | None, sure: float | None) -> Cell:
    return Cell(cut(answer or "-"), "" if sure is None else f"{sure:.3f}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _costs(compared: Compared) -> Part:
    found = [fact for fact in compared.facts if fact.kind == "costs"]
    asked = compared.on_rows
    together = asked is not None and asked.evaluation_a == asked.evaluation_b
    apart = "Each was measured when it was a challenger, so not on the same day, and perhaps not on the same machine."
    return part(
        "costs",
        "What serving costs",
        *([apart] if found and not together else []),
        caption="Each by itself",
        head=("cost", "A", "B"),
        rows=((fact.name, fact.a or "-", fact.b or "-") for fact in found),
    )


def _made(compared: Compared) -> Part:
    """What differs in how they were made, and how much does not."""
    known = [fact for fact in compared.facts if fact.kind != "costs"]
    differing = [fact for fact in known if fact.differs]
    alike = len(known) - len(differing)
    sentences = [f"{alike:,} other things are the same."] if alike else []
    if known and not differing:
        sentences = [f"All {alike:,} things that are known of both are the same."]
    return part(
        "made",
        "What differs in how they were made",
        *sentences,
        *_unknown(compared),
        *(f"A: {problem}" for problem in compared.a.problems),
        *(f"B: {problem}" for problem in compared.b.problems),
        caption="Only what differs",
        head=("", "A", "B"),
        rows=((_fact(fact), fact.a or "not known", fact.b or "not known") for fact in differing),
    )


def _unknown(compared: Compared) -> Iterator[str]:
    """Of which kind of things one knows nothing, while the other does."""
    for name, mine, theirs in (("A", compared.a, compared.b), ("B", compared.b, compared.a)):
        kinds = [_WHOLE.get(kind, kind) for kind in theirs.made if kind not in mine.made]
        if kinds:
            why = "" if mine.published else ": it was never published"
            yield f"Of {name} {', '.join(kinds)} are not known{why}."


def _fact(fact: Fact) -> Cell:
    return Cell(fact.name, _KINDS.get(fact.kind, fact.kind))
