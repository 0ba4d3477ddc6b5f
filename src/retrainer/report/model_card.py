"""The model card: Markdown with YAML front matter, made from the receipt and a few facts. Pure and light.

No licence is stated: that of the base model and of the data are unknown here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from retrainer.artifacts.evaluation import ModelEvidence
from retrainer.gate.receipt import Receipt
from retrainer.precisions import REFERENCE
from retrainer.report.decision import by_label_part, confusions_part, parts, verdict_part
from retrainer.report.figures import listed
from retrainer.report.presentation import Part, table_of
from retrainer.tasks import TaskDefinition, known_task

if TYPE_CHECKING:
    from retrainer.gate.confusion import Confusion
    from retrainer.gate.label_sets import LabelScores

PRECISION = REFERENCE
# In a sentence; a table has all.
MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says beyond the receipt.

    :param base_model: its name, without where it is.
    :param max_length: tokens after which a text is cut.
    :param sources: where the data came from.
    :param rows: split to number of rows.
    :param training: name to value, already formatted: epochs, device and so on.
    :param measured: precision, ``champion`` or ``baseline``, to what was measured of it.
    :param max_new_tokens: after which an output ends; ``None`` where labels are the output.
    :param confusions: the labels that the challenger mixes up most, on the test rows.
    :param by_label: of each label, where a row has any number of them, how well the challenger gives it.
    """

    base_model: str
    max_length: int
    sources: Sequence[str] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, ModelEvidence] = field(default_factory=dict)
    confusions: Sequence[Confusion] = ()
    by_label: Sequence[LabelScores] = ()
    max_new_tokens: int | None = None


def model_card(receipt: Receipt, facts: CardFacts, *, loading: str) -> str:
    """The card of the challenger that a receipt is about.

    :param loading: code that loads it from where it is published.
    """
    sections = [
        _front_matter(receipt, facts),
        f"# {receipt.model}\n\n{_summary(receipt, facts)}",
        f"## Intended use\n\n{_intended_use(receipt)}",
        f"## Loading\n\n```python\n{loading}\n```",
        f"## Data\n\n{_data(receipt, facts)}",
        f"## Evaluation\n\n{_evaluation(receipt, facts)}",
        f"## Decision\n\n{_decision(receipt)}",
        f"## Limits\n\n{_limits(receipt, facts)}",
    ]
    if facts.training:
        lines = "\n".join(f"- {name}: {value}" for name, value in facts.training.items())
        sections.insert(5, f"## Training\n\n{lines}")
    return "\n\n".join(sections) + "\n"


def _task(receipt: Receipt) -> TaskDefinition:
    return known_task(receipt.task, where=f"receipt of {receipt.model}")


def _front_matter(receipt: Receipt, facts: CardFacts) -> str:
    scores = receipt.metrics.get(PRECISION, {})
    values = {name: score.value for name, score in scores.items() if score.value is not None}
    results = [{"type": name, "value": value} for name, value in values.items()]
    matter: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": _task(receipt).hub_tag,
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
    task = _task(receipt)
    labels = f"{len(receipt.labels)} labels: {_named(receipt.labels)}"
    does = {
        "label": f"Sorts {task.reads} into {labels}",
        "labels": f"Gives {task.reads} those of {labels}, that apply",
        "text": f"Answers {task.reads} with text of its own",
    }
    return (
        f"{does[task.writes]}.\n"
        f"Fine-tuned from `{_inline(facts.base_model)}`, exported to ONNX ({', '.join(receipt.precisions)}), "
        "and judged as exported."
    )


def _intended_use(receipt: Receipt) -> str:
    return f"{_task(receipt).intended_use}\nIt is not meant to decide about people by itself."


def _data(receipt: Receipt, facts: CardFacts) -> str:
    lines = [f"- source: `{_inline(source)}`" for source in facts.sources]
    lines += [f"- {split} rows: {count:,}" for split, count in facts.rows.items()]
    lines.append(f"- test rows judged: {receipt.rows:,}")
    if receipt.excluded_rows:
        lines.append(f"- test rows left out because the champion was trained on them: {receipt.excluded_rows:,}")
    labels = table_of(
        "Test rows by label",
        ("label", "test rows"),
        ((label, f"{count:,}") for label, count in receipt.label_counts.items()),
    )
    said = parts(receipt)
    return "\n\n".join(["\n".join(lines), *(table.markdown() for table in labels), *_below(said, ("leakage", "drift"))])


def _evaluation(receipt: Receipt, facts: CardFacts) -> str:
    said = {**parts(receipt, facts.measured), "confusions": confusions_part(facts.confusions)}
    said["by_label"] = by_label_part(facts.by_label)
    first, *others = ("scores", "confusions", "by_label", "floors", "slices", "costs", "budgets", "calibration")
    return "\n\n".join([said[first].markdown(), *_below(said, others)])


def _decision(receipt: Receipt) -> str:
    said = parts(receipt)
    verdict = [f"The gate said **{receipt.verdict}**.", verdict_part(receipt).markdown()]
    return "\n\n".join([*filter(None, verdict), *_below(said, ("comparison", "baseline", "precisions", "selection"))])


def _below(said: Mapping[str, Part], names: Sequence[str]) -> list[str]:
    """Parts under headings of their own; those with nothing to say are left out."""
    return [f"### {said[name].title}\n\n{said[name].markdown()}" for name in names if said[name].said]


def _limits(receipt: Receipt, facts: CardFacts) -> str:
    limits = [
        f"Texts are cut after {facts.max_length} tokens.",
        *([f"Outputs end after {facts.max_new_tokens} tokens."] if facts.max_new_tokens is not None else []),
        "The scores hold for rows like the test rows, and say nothing about other sources or later times.",
    ]
    total = sum(receipt.label_counts.values())
    rare = [label for label, count in receipt.label_counts.items() if count < 30]
    if total and rare:
        limits.append(f"Fewer than 30 test rows have these labels, so little is known about them: {_named(rare)}.")
    if receipt.comparison is None:
        limits.append("It was not compared with another model.")
    return "\n".join(f"- {limit}" for limit in limits)


def _named(labels: Sequence[str]) -> str:
    return listed([f"`{_inline(label)}`" for label in labels], most=MOST_NAMED)


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")
