"""Two models side by side: the records. Light; the command and the console show them.

Everywhere ``a`` and ``b`` are the two in the order in which they were named, and a difference is a minus b, turned so
that positive means that a is better. Not here: comparing (``comparing.py``), what a model was made of (``sides.py``).
"""

from __future__ import annotations

from typing import Literal

from retrainer.artifacts.measures import Interval, Score
from retrainer.precisions import PRECISIONS
from retrainer.records import Record

# What comparing.py computes with: it is loaded where it is used.
LIBRARIES = ("numpy", "scipy", "pyarrow")

Which = Literal["a", "b"]
Right = Literal["both", "a", "b", "neither"]


class Fact(Record):
    """What a model was made with, or what it costs.

    :param kind: what it belongs to: ``model``, ``training``, ``data``, ``libraries``, ``costs``.
    :param a: in words; ``None`` where it is not known.
    """

    kind: str
    name: str
    a: str | None
    b: str | None

    @property
    def differs(self) -> bool:
        """Whether the two are known to differ, or only one of them is known."""
        return self.a != self.b


class Side(Record):
    """A version, or a challenger by its decision.

    :param name: version or decision, as it was asked for.
    :param published: whether it is a version.
    :param artifacts: step to the digest of the artifact that it came from, as far as that is known.
    :param labels: it knows; none where the task writes text.
    :param made: kind and name of a fact to what it is, in words.
    :param rows: that its own evaluation asked it; ``None`` where that is gone.
    :param precisions: of the graphs that it is published with, or would be.
    :param problems: what of it could not be read, in words.
    """

    name: str
    published: bool
    task: str
    labels: tuple[str, ...]
    artifacts: dict[str, str]
    made: dict[str, dict[str, str]]
    rows: int | None = None
    precisions: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def served(self) -> str | None:
        """The precision that clients run by default, where its golden rows agree on their processor."""
        return next((name for name in reversed(tuple(PRECISIONS)) if name in self.precisions), None)

    @property
    def evaluation(self) -> str | None:
        """Digest of the evaluate artifact that asked it as a challenger."""
        return self.artifacts.get("evaluate")


class ScoredTwice(Record):
    """A metric of both on the common rows.

    :param difference: ``None`` where it has no value.
    """

    metric: str
    lower_is_better: bool
    a: Score
    b: Score
    difference: Interval | None = None


class WhoIsRight(Record):
    """On how many rows.

    :param alike: on which both say the same, right or wrong.
    """

    both: int
    a: int
    b: int
    neither: int
    alike: int


class Group(Record):
    """Rows that have something in common.

    :param a: its mean score on them; the same of ``b``.
    :param difference: ``None`` where there are too few rows.
    :param holm: p value of "they are equally good", corrected for the number of groups.
    :param better: the one that is shown to be better.
    """

    by: str
    value: str
    rows: int
    a: float
    b: float
    difference: Interval | None = None
    holm: float | None = None
    better: Which | None = None


class Mixed(Record):
    """A mistake, and in how many rows each makes it.

    :param of: rows in which it could be made.
    """

    true: str
    said: str
    a: int
    b: int
    of: int


class Answered(Record):
    """A row on which the two differ.

    :param text: ``None`` where texts are not shown; then ``true``, ``a`` and ``b`` of a task that writes text are, too.
    :param sure_a: the probability that a gives to its own answer, or the score of its text; the same of ``b``.
    """

    row_id: str
    right: Right
    true: str | None
    a: str | None
    b: str | None
    sure_a: float | None = None
    sure_b: float | None = None
    text: str | None = None


class OnCommonRows(Record):
    """What both answered to the same rows.

    :param asked_a: rows that the evaluation with its answers asked it; the same of ``b``.
    :param evaluation_a: digest of that evaluation; the same of ``b``. One that asked both is preferred.
    :param precision_a: of the graph that answered; the same of ``b``.
    :param truth: digest of the evaluation whose labels are taken for the truth.
    :param relabelled: of the common rows, those that have another label in the other evaluation.
    :param left_out: rows that both were asked, but with other right texts.
    :param metric: by which groups are compared.
    :param alpha: error rate of each end of an interval.
    :param differing: some rows of each kind, the surest mistakes first.
    """

    rows: int
    asked_a: int
    asked_b: int
    evaluation_a: str
    evaluation_b: str
    precision_a: str
    precision_b: str
    truth: str
    snapshot: str | None
    relabelled: int
    left_out: int
    labels: tuple[str, ...]
    metric: str
    alpha: float
    scores: tuple[ScoredTwice, ...]
    right: WhoIsRight
    groups: tuple[Group, ...]
    mixed: tuple[Mixed, ...]
    differing: tuple[Answered, ...]


class Compared(Record):
    """Two models.

    :param on_rows: ``None`` where nothing can be compared: ``why_not`` says why.
    """

    a: Side
    b: Side
    facts: tuple[Fact, ...]
    on_rows: OnCommonRows | None = None
    why_not: str | None = None


def facts_of(a: Side, b: Side) -> tuple[Fact, ...]:
    """What is known of them, by kind; a kind of which one knows nothing is left out."""
    found = []
    for kind in (kind for kind in a.made if kind in b.made):
        ours, theirs = a.made[kind], b.made[kind]
        found += [
            Fact(kind=kind, name=name, a=ours.get(name), b=theirs.get(name)) for name in dict.fromkeys([*ours, *theirs])
        ]
    return tuple(found)


def why_not_comparable(a: Side, b: Side) -> str | None:
    """Why two models cannot be compared row by row, as far as that is known without their answers."""
    if a.name == b.name:
        return "It is the same model twice."
    if (export := a.artifacts.get("export")) is not None and export == b.artifacts.get("export"):
        return "Both are the same model: they came from one export, and answer every text alike."
    if a.task != b.task:
        return f"One is for {a.task} and the other for {b.task}: no row is one for both."
    return None


def without_texts(compared: Compared, *, writes_text: bool) -> Compared:
    """The same for people who may not see texts of rows.

    :param writes_text: whether what the models say is text, too.
    """
    if compared.on_rows is None:
        return compared
    hidden: dict[str, None] = dict.fromkeys(("text", "true", "a", "b") if writes_text else ("text",))
    rows = tuple(one.model_copy(update=hidden) for one in compared.on_rows.differing)
    return compared.model_copy(update={"on_rows": compared.on_rows.model_copy(update={"differing": rows})})
