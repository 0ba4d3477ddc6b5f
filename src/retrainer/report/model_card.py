"""The model card: Markdown with YAML front matter, made from the receipt and a few facts. Pure and light.

No licence is stated: that of the base model and of the data are unknown here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from retrainer.gate.records import ModelEvidence, Receipt, Score
from retrainer.report.explain import confidence, describe_interval, describe_leakage

PAIR_TASK = "text-pair-classification"
PRECISION = "fp32"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says beyond the receipt.

    :param base_model: as the pipeline names it.
    :param max_length: tokens after which a text is cut.
    :param store: where the model is published; with ``channel``, how it is loaded.
    :param sources: where the data came from.
    :param rows: split to number of rows.
    :param training: name to value, already formatted: epochs, device and so on.
    :param measured: precision, ``champion`` or ``baseline``, to what was measured of it.
    """

    base_model: str
    max_length: int
    store: str
    channel: str
    sources: Sequence[str] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, ModelEvidence] = field(default_factory=dict)


def model_card(receipt: Receipt, facts: CardFacts) -> str:
    """The card of the challenger that a receipt is about."""
    sections = [
        _front_matter(receipt, facts),
        f"# {receipt.model}\n\n{_summary(receipt, facts)}",
        f"## Intended use\n\n{_intended_use(receipt)}",
        f"## Loading\n\n{_loading(receipt, facts)}",
        f"## Data\n\n{_data(receipt, facts)}",
        f"## Evaluation\n\n{_evaluation(receipt, facts)}",
        f"## Decision\n\n{_decision(receipt)}",
        f"## Limits\n\n{_limits(receipt, facts)}",
    ]
    if facts.training:
        lines = "\n".join(f"- {name}: {value}" for name, value in facts.training.items())
        sections.insert(5, f"## Training\n\n{lines}")
    return "\n\n".join(sections) + "\n"


def _front_matter(receipt: Receipt, facts: CardFacts) -> str:
    scores = receipt.metrics.get(PRECISION, {})
    values = {name: score.value for name, score in scores.items() if score.value is not None}
    results = [{"type": name, "value": value} for name, value in values.items()]
    matter: dict[str, Any] = {
        "library_name": "onnx",
        # The hub knows no task of pairs; a pair is one input to it.
        "pipeline_tag": "text-classification" if receipt.task == PAIR_TASK else receipt.task,
        "tags": ["retrainer", "onnx"],
        "base_model": facts.base_model,
    }
    if results:
        matter["metrics"] = list(values)
        matter["model-index"] = [
            {
                "name": receipt.model,
                "results": [
                    {
                        "task": {"type": matter["pipeline_tag"]},
                        "dataset": {"name": f"test rows of {receipt.model}", "type": receipt.model},
                        "metrics": results,
                    }
                ],
            }
        ]
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True).strip()}\n---"


def _summary(receipt: Receipt, facts: CardFacts) -> str:
    reads = "pairs of texts" if receipt.task == PAIR_TASK else "texts"
    labels = ", ".join(f"`{_inline(label)}`" for label in receipt.labels)
    return (
        f"Sorts {reads} into {len(receipt.labels)} labels: {labels}.\n"
        f"Fine-tuned from `{_inline(facts.base_model)}`, exported to ONNX ({', '.join(receipt.precisions)}), "
        "and judged as exported."
    )


def _intended_use(receipt: Receipt) -> str:
    reads = "Pairs of texts" if receipt.task == PAIR_TASK else "Texts"
    return (
        f"{reads} like those it was trained on, each of which has exactly one of the labels. It always answers with "
        "one of them, also for a text that belongs to none.\nIt is not meant to decide about people by itself."
    )


def _loading(receipt: Receipt, facts: CardFacts) -> str:
    channel = f", channel={facts.channel!r}"
    example = '("first text", "second text")' if receipt.task == PAIR_TASK else '"a text"'
    return (
        "```python\n"
        "from retrainer.serve import Classifier\n\n"
        f"classifier = Classifier.from_store({facts.store!r}, {receipt.model!r}{channel})\n"
        f"classifier({example})\n"
        "```"
    )


def _data(receipt: Receipt, facts: CardFacts) -> str:
    lines = [f"- source: `{_inline(source)}`" for source in facts.sources]
    lines += [f"- {split} rows: {count:,}" for split, count in facts.rows.items()]
    lines.append(f"- test rows judged: {receipt.rows:,}")
    if receipt.excluded_rows:
        lines.append(f"- test rows left out because the champion was trained on them: {receipt.excluded_rows:,}")
    if twice := describe_leakage(receipt.leakage):
        lines.append(f"- rows taken out because they stood in two places: {twice}")
    lines += [
        f"- drift since the champion, {_plain(one.measure)}: {one.verdict}, distance {_number(one.distance)}"
        for one in receipt.drift or ()
        if one.verdict in {"warn", "block"}
    ]
    if receipt.label_counts:
        table = _table(("label", "test rows"), [(label, f"{count:,}") for label, count in receipt.label_counts.items()])
        lines += ["", table]
    return "\n".join(lines)


def _evaluation(receipt: Receipt, facts: CardFacts) -> str:
    models: dict[str, Mapping[str, Score]] = dict(receipt.metrics)
    if receipt.baseline is not None:
        models["baseline"] = receipt.baseline
    metrics = list(receipt.metrics.get(PRECISION, {}))
    if not metrics:
        return "The predictions could not be judged, so there are no scores."
    rows = [(metric, *(_score(scores.get(metric)) for scores in models.values())) for metric in metrics]
    parts = [
        f"On {receipt.rows:,} test rows, in brackets the {confidence(receipt.policy)} interval."
        + (" The baseline is TF-IDF with logistic regression." if receipt.baseline is not None else ""),
        _table(("metric", *models), rows),
    ]
    fitted = {name: value for name, value in receipt.temperatures.items() if value != 1}
    if fitted:
        values = ", ".join(f"{name} {value:.3f}" for name, value in fitted.items())
        parts.append(f"Confidences are calibrated: the client divides the logits by a temperature ({values}).")
    if receipt.slices:
        shown = [
            (
                f"{result.by} = {result.value}",
                f"{result.rows:,}",
                _number(result.challenger_accuracy),
                _number(result.champion_accuracy),
                result.status,
            )
            for result in receipt.slices
        ]
        parts += ["Accuracy by slice:", _table(("slice", "rows", "challenger", "champion", "status"), shown)]
    if costs := [_cost(name, model) for name, model in facts.measured.items() if model.latency_ms is not None]:
        head = ("model", "median latency, ms", "p95, ms", "texts/s", "download, MB", "peak memory, MB")
        parts += ["What serving costs:", _table(head, costs)]
    if receipt.budgets:
        budgets = [
            (budget.budget, budget.precision, _number(budget.measured), f"{budget.limit:g}", _yes(budget.met))
            for budget in receipt.budgets
        ]
        parts.append(_table(("budget", "precision", "measured", "allowed", "met"), budgets))
    return "\n\n".join(parts)


def _cost(name: str, model: ModelEvidence) -> tuple[str, ...]:
    latency = (model.latency_ms.p50, model.latency_ms.p95) if model.latency_ms else (None, None)
    return (name, *map(_number, (*latency, model.rows_per_second, model.size_mb, model.peak_memory_mb)))


def _decision(receipt: Receipt) -> str:
    lines = [f"The gate said **{receipt.verdict}**."]
    lines += [f"- `{reason.code.value}`: {_plain(reason.detail)}" for reason in receipt.reasons]
    if receipt.comparison is not None:
        lines.append(f"- against champion `{receipt.champion_version}`: {describe_interval(receipt.comparison)}")
    if receipt.selection is not None:
        count = len(receipt.selection.candidates)
        lines.append(f"- base model, one of {count}: {_plain(receipt.selection.why)}")
    lines += [f"- {precision}: {_plain(made.why)}" for precision, made in receipt.precisions.items()]
    lines += [f"- {_plain(note)}" for note in receipt.notes]
    return lines[0] + "\n\n" + "\n".join(lines[1:]) if len(lines) > 1 else lines[0]


def _limits(receipt: Receipt, facts: CardFacts) -> str:
    limits = [
        f"Texts are cut after {facts.max_length} tokens.",
        "The scores hold for rows like the test rows, and say nothing about other sources or later times.",
    ]
    total = sum(receipt.label_counts.values())
    rare = [label for label, count in receipt.label_counts.items() if count < 30]
    if total and rare:
        named = ", ".join(f"`{_inline(label)}`" for label in rare)
        limits.append(f"Fewer than 30 test rows have these labels, so little is known about them: {named}.")
    if receipt.comparison is None:
        limits.append("It was not compared with another model.")
    return "\n".join(f"- {limit}" for limit in limits)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _score(score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    bounds = f" [{score.low:.4f}, {score.high:.4f}]" if score.low is not None and score.high is not None else ""
    return f"{score.value:.4f}{bounds}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _plain(text: str) -> str:
    """Text from the data or an error, so that it stays within its line and cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")
