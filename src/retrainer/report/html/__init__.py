"""``report.html``: a decision with everything it rests on, for the people who have to live with it.

One page that stands alone: no script, nothing loaded from anywhere, pictures inside. Pure, and the same bytes for the
same decision. What comes from the data, as labels, slices and file names do, is escaped by the template engine, and
the page forbids scripts besides. Not here: the numbers (``decide.py``), the pictures (``work.evaluate.plots``).
"""

from __future__ import annotations

import base64
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from retrainer import __version__
from retrainer.gate.precisions import DEFAULT_MARGIN
from retrainer.gate.records import BudgetResult, ReasonCode, Receipt, Score
from retrainer.report.explain import confidence
from retrainer.report.html import charts
from retrainer.report.model_card import CardFacts
from retrainer.spec.metric_names import LOWER_IS_BETTER

TEMPLATE = "report.html.jinja"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What the page says beyond the receipt.

    :param card: what the model card says, too.
    :param decision: digest of the decide artifact.
    :param label_counts: split to label to rows.
    :param dropped: what was taken out of the data, in words, to rows.
    """

    card: CardFacts
    decision: str
    label_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot of the evaluation, and what it shows in words."""

    title: str
    alt: str
    source: str


# File name without its suffix to title and words. Others are shown under their name.
PICTURES: Mapping[str, tuple[str, str]] = {
    "confusion_matrix": (
        "Confusion matrix",
        "Confusion matrix of the challenger: a row for each true label, a column for each predicted one. "
        "The scores table has the rates.",
    ),
    "reliability": (
        "Reliability",
        "Reliability diagram: confidence of the predictions across, share of them that is right upwards. "
        "The closer to the diagonal, the better calibrated.",
    ),
    "training_curve": (
        "Training curve",
        "Training curve: loss and validation metrics over the steps of the training, with the step that was kept.",
    ),
}

# Name in the policy to words and unit.
BUDGETS: Mapping[str, tuple[str, str]] = {
    "p50_latency_ms": ("median latency", "ms"),
    "p95_latency_ms": ("95th percentile latency", "ms"),
    "min_rows_per_second": ("texts a second, at least", ""),
    "size_mb": ("download size", "MB"),
    "peak_memory_mb": ("peak memory", "MB"),
    "max_latency_ratio": ("latency over the champion's", "×"),
    "min_throughput_ratio": ("texts a second over the champion's, at least", "×"),
    "max_size_ratio": ("size over the champion's", "×"),
    "max_memory_ratio": ("peak memory over the champion's", "×"),
}


def report_html(receipt: Receipt, facts: ReportFacts, images: Mapping[str, bytes]) -> str:
    """The page.

    :param images: file name to PNG. One that is none is left out.
    """
    models = _models(receipt)
    pictures = _pictures(images)
    agreement = receipt.selection.agreement if receipt.selection else {}
    text = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            receipt=receipt,
            facts=facts,
            version=__version__,
            level=confidence(receipt.policy),
            reasons=_reasons(receipt),
            headline_metric=_headline_metric(receipt),
            models=models,
            metrics=list(dict.fromkeys(metric for scores in models.values() for metric in scores)),
            forest=_forest(receipt),
            scores=charts.score_charts(receipt, models),
            slices=charts.slice_chart(
                receipt.slices, receipt.policy.slices.max_drop if receipt.policy.slices else None
            ),
            precision_names=list(dict.fromkeys([*receipt.precisions, *receipt.parity])),
            temperatures={
                name: receipt.temperatures.get(name) for name in {**receipt.temperatures, **_with_ece(models)}
            },
            leakage_names=list(dict.fromkeys([*receipt.leakage.exact, *receipt.leakage.near])),
            agreement_bases=list(dict.fromkeys([*agreement, *(base for row in agreement.values() for base in row)])),
            pictures=pictures,
            other_pictures=[picture for name, picture in pictures.items() if name not in PICTURES],
            policy=json.dumps(receipt.policy.model_dump(mode="json"), indent=2, ensure_ascii=False),
            lower_is_better=LOWER_IS_BETTER,
        )
    )
    return "".join(_printable(text)).rstrip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("retrainer.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=charts.number,
        signed=charts.signed,
        bounds=charts.bounds,
        count=lambda value: "–" if value is None else f"{value:,}",
        percent=lambda share: f"{100 * share:.1f} %",
        budget=_budget,
        amount=_amount,
        p_value=_p_value,
        unit=_unit,
        tiny=lambda value: "–" if value is None else f"{value:.1e}".replace("-", "−"),
        millions=lambda value: "–" if value is None else f"{value / 1e6:,.1f} M",
        share=lambda value: "–" if value is None else f"{100 * value:.1f} %",
    )
    return environment


def _printable(text: str) -> Iterable[str]:
    """Without characters that HTML forbids even when escaped: controls, noncharacters, halves of surrogates."""
    for letter in text:
        if letter in "\n\t" or (unicodedata.category(letter) not in {"Cc", "Cs"} and not _is_noncharacter(letter)):
            yield letter
        else:
            yield "\N{REPLACEMENT CHARACTER}"


def _is_noncharacter(letter: str) -> bool:
    point = ord(letter)
    return 0xFDD0 <= point <= 0xFDEF or point & 0xFFFE == 0xFFFE


def _reasons(receipt: Receipt) -> dict[ReasonCode, list[str]]:
    """The details under each code, in the receipt's order."""
    found: dict[ReasonCode, list[str]] = {}
    for reason in receipt.reasons:
        found.setdefault(reason.code, []).append(reason.detail)
    return found


def _models(receipt: Receipt) -> dict[str, Mapping[str, Score]]:
    """Every model with scores: precisions, champion, baseline."""
    models = {**receipt.metrics, **({"baseline": receipt.baseline} if receipt.baseline is not None else {})}
    last = {"champion": 1, "baseline": 2}
    return {name: models[name] for name in sorted(models, key=lambda name: (last.get(name, 0), name))}


def _headline_metric(receipt: Receipt) -> str | None:
    """The metric that people look at first: the one compared with the champion, else the first of the challenger."""
    scores = receipt.metrics.get("fp32", {})
    against = receipt.policy.against_champion
    if against is not None and against.metric in scores:
        return against.metric
    return next(iter(scores), None)


def _forest(receipt: Receipt) -> dict[str, charts.Chart]:
    """The differences that were judged, by what was compared with."""
    found: dict[str, charts.Chart | None] = {}
    against = receipt.policy.against_champion
    if receipt.comparison is not None:
        found["champion"] = charts.difference_chart(
            "champion",
            f"Difference in {receipt.comparison.metric}",
            "challenger",
            "champion",
            receipt.comparison,
            threshold=receipt.threshold,
        )
    if receipt.baseline_comparison is not None:
        found["baseline"] = charts.difference_chart(
            "baseline",
            f"Difference in {receipt.baseline_comparison.metric}",
            "challenger",
            "baseline",
            receipt.baseline_comparison,
            threshold=0.0 if receipt.policy.baseline == "floor" else None,
            point=not receipt.policy.confident,
        )
    for at, (precision, decided) in enumerate(receipt.precisions.items()):
        if decided.comparison is not None:
            found[precision] = charts.difference_chart(
                f"precision-{at}",
                f"Difference in {decided.comparison.metric}",
                precision,
                "fp32",
                decided.comparison,
                threshold=-(against.margin if against and against.margin else DEFAULT_MARGIN),
            )
    return {name: chart for name, chart in found.items() if chart is not None}


def _pictures(images: Mapping[str, bytes]) -> dict[str, Picture]:
    found = {}
    for name, data in sorted(images.items()):
        if not data.startswith(PNG):
            continue
        stem = name.rpartition("/")[2].removesuffix(".png")
        title, alt = PICTURES.get(stem, (stem.replace("_", " "), f"Plot: {stem.replace('_', ' ')}"))
        found[stem] = Picture(title, alt, "data:image/png;base64," + base64.b64encode(data).decode("ascii"))
    return found


def _with_ece(models: Mapping[str, Mapping[str, Score]]) -> dict[str, None]:
    return {name: None for name, scores in models.items() if "ece" in scores}


def _unit(value: float | None, unit: str) -> str:
    """With as many digits as can be told apart from run to run."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _budget(result: BudgetResult) -> str:
    return BUDGETS.get(result.budget, (result.budget.replace("_", " "), ""))[0]


def _amount(value: float | None, result: BudgetResult) -> str:
    unit = BUDGETS.get(result.budget, ("", ""))[1]
    return "not measured" if value is None else f"{value:,.4g} {unit}".rstrip()


def _p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
