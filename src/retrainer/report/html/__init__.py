"""``report.html``: a decision with everything it rests on, for the people who have to live with it.

One page that stands alone: no script, nothing loaded from anywhere, plots inside. Pure, and the same bytes for the
same decision. What comes from the data, as labels, slices and file names do, is escaped by the template engine, and
the page forbids scripts besides. Not here: what is said of a decision (``decision.py``), the numbers (``gate/``).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from retrainer import __version__
from retrainer.artifacts.evaluation import Suspects
from retrainer.gate.precisions import DEFAULT_MARGIN
from retrainer.gate.receipt import ReasonCode, Receipt
from retrainer.report import charts
from retrainer.report.against_others import confidence
from retrainer.report.decision import FP32, by_label_part, confusions_part, models_of, parts
from retrainer.report.examples import Examples, examples_part
from retrainer.report.flips import Flips, flips_part
from retrainer.report.labels import look_first_part, suspects_part
from retrainer.report.model_card import CardFacts
from retrainer.report.presentation import Part, percent, scored, signed, table_of
from retrainer.spec.budgets import COSTS
from retrainer.tasks import known_task

TEMPLATE = "report.html.jinja"
# What HTML forbids even when escaped: controls, halves of surrogates, noncharacters.
_LAST_TWO = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_LAST_TWO}]")
PNG = b"\x89PNG\r\n\x1a\n"
# The sections of the page and the parts below each; the first gives the heading.
SECTIONS = (
    ("comparison", "changes", "anchor", "over_time", "look-first", "flips", "baseline"),
    ("scores", "floors", "plots", "confusions", "by_label"),
    ("examples",),
    ("slices",),
    ("flipped",),
    ("costs", "budgets"),
    ("precisions",),
    ("calibration",),
    ("selection",),
    ("data", "suspects", "leakage", "drift"),
)


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What the page says beyond the receipt.

    :param card: what the model card says, too.
    :param decision: digest of the decide artifact.
    :param label_counts: split to label to rows.
    :param dropped: what was taken out of the data or relabelled, in words, to rows.
    :param suspects: of the labels; ``None`` where nobody looked, and ``suspects_error`` may say why.
    :param suspicious: test rows whose label may be wrong, as in ``suspects.csv``.
    :param look_first: rows that may move the comparison, as in ``look_first.csv``.
    :param examples: of what was written; ``None`` where the task has labels.
    :param flips: rows that only one of champion and challenger has right; ``None`` where nothing was compared.
    """

    card: CardFacts
    decision: str
    label_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    suspects: Suspects | None = None
    suspects_error: str | None = None
    suspicious: Sequence[Mapping[str, str]] = ()
    look_first: Sequence[Mapping[str, str]] = ()
    flips: Flips | None = None
    examples: Examples | None = None


def report_html(receipt: Receipt, facts: ReportFacts, images: Mapping[str, bytes]) -> str:
    """The page.

    :param images: file name to PNG, of the plots that the evaluation left. What is not a PNG is left out.
    """
    made = {
        **parts(receipt, facts.card.measured),
        "confusions": confusions_part(facts.card.confusions),
        "by_label": by_label_part(facts.card.by_label),
        "flipped": flips_part(facts.flips),
        "examples": examples_part(facts.examples),
        "plots": Part("plots", "Plots of the evaluation"),
        "data": _data(receipt, facts),
        "suspects": suspects_part(facts.suspects, facts.suspicious, why_not=facts.suspects_error),
        "look-first": look_first_part(facts.look_first),
    }
    plots = _plots(receipt, images)
    shown = [[made[name] for name in names if made[name].said or plots.get(name)] for names in SECTIONS]
    text = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            receipt=receipt,
            facts=facts,
            task=known_task(receipt.task, where=f"receipt of {receipt.model}"),
            version=__version__,
            level=confidence(receipt.policy),
            reasons=_reasons(receipt),
            tiles=list(_tiles(receipt, facts)),
            sections=[(made[names[0]], below) for names, below in zip(SECTIONS, shown, strict=True) if below],
            plots=plots,
            policy=json.dumps(receipt.policy.model_dump(mode="json"), indent=2, ensure_ascii=False),
        )
    )
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text).rstrip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("retrainer.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment


def _reasons(receipt: Receipt) -> dict[ReasonCode, list[str]]:
    """The details under each code, in the receipt's order."""
    found: dict[ReasonCode, list[str]] = {}
    for reason in receipt.reasons:
        found.setdefault(reason.code, []).append(reason.detail)
    return found


def _tiles(receipt: Receipt, facts: ReportFacts) -> Iterator[tuple[str, str, str]]:
    """What people look at first: a name, a figure, and a few words on it."""
    level = confidence(receipt.policy)
    scores = receipt.metrics.get(FP32, {})
    against = receipt.policy.against_champion
    # The metric that is compared with the champion, else the first of the challenger.
    metric = against.metric if against is not None and against.metric in scores else next(iter(scores), None)
    if metric is not None:
        found = scored(scores[metric])
        yield metric, found.text, f"{level} interval {found.below or 'unknown'}"
    compared = receipt.comparison
    if compared is not None:
        yield (
            f"{compared.metric}, against champion",
            signed(compared.estimate),
            f"{percent(compared.confidence)} interval {compared.range}",
        )
    else:
        states = {"none": "the channel has none yet", "unreadable": "it could not be read", "present": "not compared"}
        yield "against champion", "-", states[receipt.champion_state]
    differing = f", {compared.disagreements:,} answered differently" if compared is not None else ""
    yield "test rows", f"{receipt.rows:,}", f"{receipt.excluded_rows:,} left out{differing}"
    cost = facts.card.measured.get(FP32)
    if cost is not None and cost.latency_ms is not None:
        size = f"{COSTS['size_mb'].amount(cost.size_mb)} to download" if cost.size_mb is not None else ""
        yield COSTS["latency_ms.p50"].words, COSTS["latency_ms.p50"].amount(cost.latency_ms.p50), size


# --- parts that the receipt alone does not give ----------------------------------------------------------


def _data(receipt: Receipt, facts: ReportFacts) -> Part:
    counted = {**{f"{split} rows": rows for split, rows in facts.card.rows.items()}, **facts.dropped}
    by_label = table_of(
        "Rows by label",
        ("label", *facts.label_counts, "judged"),
        (
            (
                label,
                *(f"{counts.get(label, 0):,}" for counts in facts.label_counts.values()),
                f"{receipt.label_counts.get(label, 0):,}",
            )
            for label in receipt.labels
        ),
    )
    rows = table_of("Rows", ("what", "rows"), ((what, f"{count:,}") for what, count in counted.items()))
    sources = tuple(f"Source: {source}" for source in facts.card.sources)
    return Part("data", "Data", sources, (*rows, *by_label))


# --- plots -----------------------------------------------------------------------------------------------


# File name of a plot of the evaluation, without its suffix, to the part that shows it, title and words.
PICTURES: Mapping[str, tuple[str, str, str]] = {
    "confusion_matrix": (
        "plots",
        "Confusion matrix",
        "Confusion matrix of the challenger: a row for each true label, a column for each predicted one.",
    ),
    "labels": (
        "by_label",
        "Precision, recall, F1 and threshold",
        "For each label precision, recall and F1 of the challenger on the test rows, and the threshold that a "
        "probability must reach for it to apply. Of many labels, those with the lowest F1.",
    ),
    "training_curve": (
        "plots",
        "Training curve",
        "Training curve: loss and validation metrics over the steps of the training, with the step that was kept.",
    ),
    "reliability": (
        "calibration",
        "Reliability",
        "Reliability diagram: confidence of the predictions across, share of them that is right upwards. "
        "The closer to the diagonal, the better calibrated.",
    ),
}


def _anchor_chart(receipt: Receipt) -> charts.Chart | None:
    """Nothing where the champion is the anchor: its comparison is shown already."""
    found = receipt.anchor
    if found is None or found.is_champion:
        return None
    return charts.difference_chart("challenger", "anchor", found.comparison, threshold=-found.max_loss)


def _plots(receipt: Receipt, images: Mapping[str, bytes]) -> dict[str, list[charts.Chart]]:
    """The charts of each part, by its name."""
    policy, against = receipt.policy, receipt.policy.against_champion
    margin = against.margin if against and against.margin else DEFAULT_MARGIN
    beaten = 0.0 if policy.baseline == "floor" else None
    compare = charts.difference_chart
    drawn: dict[str, list[charts.Chart | None]] = {
        "comparison": [compare("challenger", "champion", receipt.comparison, threshold=receipt.threshold)],
        "anchor": [_anchor_chart(receipt)],
        "baseline": [
            compare("challenger", "baseline", receipt.baseline_comparison, threshold=beaten, point=not policy.confident)
        ],
        "precisions": [
            compare(name, FP32, decided.comparison, threshold=-margin) for name, decided in receipt.precisions.items()
        ],
        "scores": [*charts.score_charts(models_of(receipt), policy.floors)],
        "slices": [charts.slice_chart(receipt.slices, policy.slices.max_drop if policy.slices else None)],
    }
    found = {name: [chart for chart in made if chart is not None] for name, made in drawn.items()}
    for file, png in sorted(images.items()):
        if png.startswith(PNG):
            stem = file.rpartition("/")[2].removesuffix(".png")
            name = stem.replace("_", " ")
            part, title, text = PICTURES.get(stem, ("plots", name, f"Plot: {name}"))
            found.setdefault(part, []).append(charts.Chart(title, text, png))
    return found
