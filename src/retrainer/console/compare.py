"""The page that compares two models: the same figures as ``retrainer compare``, from the same function.

What is compared never changes, so an answer is kept; the first takes seconds where libraries have to be loaded, and
then the page says so and looks again by itself. Texts of rows are only in what a visitor gets who may read them.
"""

from __future__ import annotations

import importlib.util
import shlex
import tempfile
import threading
from functools import partial
from pathlib import Path

from retrainer.artifacts.repository import Artifacts
from retrainer.audit.compared import LIBRARIES, Compared, Right, Side, facts_of, without_texts
from retrainer.audit.side_by_side import RIGHT, group_name, headline, parts, shown_better
from retrainer.audit.sides import side_of
from retrainer.chain.model_store import model_of
from retrainer.console.decision import DIGEST, texts_shown
from retrainer.console.drawing import Estimate, Forest, Kind, Segment, forest, stacked
from retrainer.console.host import Shown
from retrainer.console.overview import published_by
from retrainer.console.stores import Problem, Stores, or_problem
from retrainer.errors import NotFoundError
from retrainer.records import Record
from retrainer.report.figures import counted_rows
from retrainer.report.presentation import Part, signed
from retrainer.store.names import is_version
from retrainer.store.summary import ChannelSummary, Summary
from retrainer.tasks import TASKS

# Files of predictions of both evaluations that the page reads; the command reads any.
MOST_BYTES = 100_000_000
MOST_CHOICES = 60
MOST_GROUPS = 24
_SIDES = "left B is better, right A"
# Comparisons that are computed at once, whoever asks for how many.
_TURNS = threading.Semaphore(2)


class Choice(Record):
    """What can be compared.

    :ivar name: version or decision.
    :ivar live: it is served now.
    """

    name: str
    at: str
    published: bool
    live: bool = False


class ComparePage(Record):
    """The page.

    :ivar a: as it was asked for, else the champion; ``b`` likewise, else the version before it.
    :ivar compared: ``None`` where that is not known yet, or cannot be.
    :ivar pending: it is being computed.
    :ivar missing: there is no such version or decision.
    :ivar command: the same by hand.
    """

    model: str
    channel: str
    dag_id: str
    a: str
    b: str
    choices: tuple[Choice, ...]
    compared: Compared | None
    pending: bool
    missing: bool
    texts: bool
    texts_because: str
    command: str
    problems: tuple[str, ...] = ()


def compare_page(
    one: Shown, channel: str, root: str, stores: Stores, a: str | None, b: str | None, *, may_read_texts: bool
) -> ComparePage:
    """Compare two models.

    :param a: a version, or the digest of a decision; ``None`` for the champion.
    :param root: of the artifacts.
    :raises NotFoundError: a name can be neither.
    """
    for name in (a, b):
        if name is not None and not (is_version(name) or DIGEST.fullmatch(name)):
            hint = "a version is named by 16 hexadecimal digits, a challenger by the 64 of its decision"
            raise NotFoundError("there is no such version or decision", hint=hint)
    gate = one.pipeline.gate
    texts, because = texts_shown(gate, may_read_texts=may_read_texts, dag_id=one.dag_id)
    key = ("summary", one.store, one.name)
    compared_key = ("compare", root, one.store, one.name, channel, a, b, texts, gate.alpha)
    reading = partial(_compare, one, channel, root, stores, a, b, texts=texts)
    answers = stores.ask_several(
        [
            (one.store, {key: partial(stores.summary, one.store, one.name)}),
            (f"{root} compare", {compared_key: partial(or_problem, reading)}),
        ]
    )
    summary, found = answers[key], answers[compared_key]
    choices = _choices(summary.of(channel)) if isinstance(summary, Summary) else ()
    problems = [summary.text] if isinstance(summary, Problem) else []
    if isinstance(found, Problem) and not found.late:
        problems.append(found.text)
    first, second = _default(choices, a, b)
    return ComparePage(
        model=one.name,
        channel=channel,
        dag_id=one.dag_id,
        a=first,
        b=second,
        choices=choices,
        compared=found if isinstance(found, Compared) else None,
        pending=isinstance(found, Problem) and found.late and not isinstance(summary, Problem),
        missing=isinstance(found, Problem) and found.missing,
        texts=texts,
        texts_because=because,
        command=_command(one, root, first, second, gate.alpha),
        problems=tuple(dict.fromkeys(problems)),
    )


def _compare(
    one: Shown, channel: str, root: str, stores: Stores, a: str | None, b: str | None, *, texts: bool
) -> Compared | None:
    """The comparison; ``None`` where there are no two to compare."""
    if a is None or b is None:
        a, b = _default(_choices(stores.summary(one.store, one.name).of(channel)), a, b)
        if not a or not b or a == b:
            return None
    compare = partial(_compare_two, one, root, a, b, texts=texts)
    return stores.lasting(("compared", root, one.store, one.name, a, b, texts, one.pipeline.gate.alpha), compare)


def _compare_two(one: Shown, root: str, a: str, b: str, *, texts: bool) -> Compared:
    # Nobody clears the cache of an API server: what comes from a bucket is gone when the answer is there.
    with tempfile.TemporaryDirectory(prefix="retrainer-compare-") as copies:
        return _compare_in(Artifacts(root, copies=Path(copies)), one, a, b, texts=texts)


def _compare_in(artifacts: Artifacts, one: Shown, a: str, b: str, *, texts: bool) -> Compared:
    model = model_of(one.pipeline)
    first, second = (side_of(model, artifacts, name) for name in (a, b))
    why_not = _too_much_here(artifacts, first, second)
    if why_not is not None:
        return Compared(a=first, b=second, facts=facts_of(first, second), why_not=why_not)
    with _TURNS:
        from retrainer.audit.comparing import compare_models, with_texts

        compared = compare_models(artifacts, first, second, one.pipeline.gate.alpha)
        if texts:
            return with_texts(artifacts, compared)
    return without_texts(compared, writes_text=TASKS[compared.a.task].writes == "text")


def _too_much_here(artifacts: Artifacts, *sides: Side) -> str | None:
    """Why the rows are not compared by this process; the command can do it elsewhere."""
    absent = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if absent:
        return f"Where this page is made {', '.join(absent)} is not installed: rows are compared by the command below."
    size = 0
    for digest in {side.evaluation for side in sides if side.evaluation is not None}:
        manifest = artifacts.find("evaluate", digest)
        files = manifest.files if manifest is not None else {}
        size += sum(file.size for name, file in files.items() if name.endswith(".parquet"))
    if size > MOST_BYTES:
        return f"Their answers take {size / 1e6:,.0f} MB, too much for a page: rows are compared by the command below."
    return None


def _choices(channel: ChannelSummary) -> tuple[Choice, ...]:
    """Versions that were live, and challengers that were not, the newest first."""
    versions = {move.to_version: move.at for move in reversed(channel.moves)}
    found = [
        Choice(name=version, at=at, published=True, live=version == channel.champion)
        for version, at in versions.items()
    ]
    found += [
        Choice(name=one.decision, at=one.at, published=False)
        for one in channel.decisions
        if published_by(channel, one.decision) is None
    ]
    return tuple(sorted(found, key=lambda one: one.at, reverse=True)[:MOST_CHOICES])


def _default(choices: tuple[Choice, ...], a: str | None, b: str | None) -> tuple[str, str]:
    """What is compared where one or both are not named: the champion, and the version or challenger before it."""
    champion = next((one.name for one in choices if one.live), "")
    first = a or (champion if champion != b else "") or next((one.name for one in choices if one.name != b), "")
    if b is not None:
        return first, b
    others = sorted((one for one in choices if one.name != first), key=lambda one: not one.published)
    return first, champion if a not in (None, champion) and champion else others[0].name if others else first


def _command(one: Shown, root: str, a: str, b: str, alpha: float) -> str:
    named = [shlex.quote(part) for part in (one.store, one.name, a or "A", b or "B")]
    more = "" if alpha == 0.05 else f" --alpha {alpha:g}"
    return f"retrainer compare {' '.join(named)} --artifacts {shlex.quote(root)}{more}"


# --- what is drawn -----------------------------------------------------------------------------------------


def parts_of(page: ComparePage) -> dict[str, Part]:
    """The sentences and tables."""
    return parts(page.compared) if page.compared is not None else {}


def headline_of(compared: Compared) -> tuple[Kind, str]:
    """Who is better by the first metric, by which it is coloured, and in words."""
    found = compared.on_rows
    first = next((one for one in found.scores if one.difference is not None), None) if found is not None else None
    if first is None or first.difference is None:
        return "plain", "No metric tells them apart"
    return shown_better(first.difference) or "plain", headline(first.metric, first.difference)


def forest_of_scores(compared: Compared) -> Forest | None:
    """The difference in each metric."""
    found = compared.on_rows
    if found is None:
        return None
    rows = []
    for one in found.scores:
        interval = one.difference
        if interval is not None:
            kind: Kind = shown_better(interval) or "plain"
            less = "less is better" if one.lower_is_better else ""
            figure = f"{signed(interval.estimate)} {interval.range}"
            rows.append(
                Estimate(
                    name=one.metric.replace("_", " "),
                    figure=figure,
                    value=interval.estimate,
                    low=interval.low,
                    high=interval.high,
                    kind=kind,
                    below=less,
                )
            )
    text = "; ".join(f"{row.name} {row.figure}" for row in rows)
    return forest("A minus B", text, rows, zero=True, sides=_SIDES)


def forest_of_groups(compared: Compared) -> Forest | None:
    """The difference in each group that has enough rows, those that differ most first."""
    found = compared.on_rows
    if found is None:
        return None
    told = [(one, one.difference) for one in found.groups if one.difference is not None]
    rows = [
        Estimate(
            name=group_name(one),
            figure=signed(interval.estimate),
            value=interval.estimate,
            low=interval.low,
            high=interval.high,
            kind=one.better or "plain",
            mark=f"{one.better.upper()} is better" if one.better else "",
            below=counted_rows(one.rows),
        )
        for one, interval in told[:MOST_GROUPS]
    ]
    text = f"{len(rows)} groups, the largest differences first. The table below has all of them."
    return forest(f"{found.metric.replace('_', ' ')}, A minus B", text, rows, zero=True, sides=_SIDES)


def bar_of_right(compared: Compared) -> tuple[Segment, ...]:
    """Who is right where, in one bar."""
    return stacked([(kind, RIGHT[kind], float(count)) for kind, count in _right(compared)])


def legend_of_right(compared: Compared) -> tuple[tuple[str, str], ...]:
    """What its colours mean, with the rows of each."""
    return tuple((kind, f"{RIGHT[kind]}: {count:,}") for kind, count in _right(compared))


def _right(compared: Compared) -> tuple[tuple[Right, int], ...]:
    right = compared.on_rows.right if compared.on_rows is not None else None
    if right is None:
        return ()
    return ("both", right.both), ("a", right.a), ("b", right.b), ("neither", right.neither)
