"""What a task is to this package: the shape of a definition. Not here: the definitions, a module each beside this one.

Light: the code that a task needs is named by dotted names, and loaded where it is used.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

# What a model answers with: one of some labels, any number of them, or text of its own.
Writes: TypeAlias = Literal["label", "labels", "text"]
# The channel of whoever names none.
DEFAULT_CHANNEL = "production"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The code that a task needs, each part as ``package.module:name``.

    :param encode: a split of a snapshot to the rows that a training reads.
    :param model_class: loads the base model and the checkpoint.
    :param head: what the model's configuration has to know of the labels.
    :param ready: makes a loaded model and its tokenizer fit the task, or says why they do not.
    :param collate: rows of a training to a padded batch.
    :param training_scores: makes the ``compute_metrics`` of a training.
    :param export: a checkpoint to a bundle that was checked against it.
    :param score: what a bundle answers to each held-out row, as the gate judges it.
    :param predictor: answers from one graph of a bundle.
    :param agreement: whether a loaded bundle answers its golden rows.
    """

    encode: str
    model_class: str
    head: str
    ready: str
    collate: str
    training_scores: str
    export: str
    score: str
    predictor: str
    agreement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One task.

    :param name: as pipelines, bundles and manifests give it.
    :param texts: columns of text that a row has.
    :param columns: ``text`` and ``label`` to the column that is read where the pipeline names none.
    :param writes: what a model of it answers with.
    :param has_encoder: whether its models have an encoder beside a decoder; ``None`` where that does not matter.
    :param metrics: the family of metrics that judge it; ``None`` while this version has none for it.
    :param default_metrics: what is measured where the pipeline names nothing; the gate compares by the first.
    :param in_training: of all metrics those that a training measures as well; ``None`` for each that is asked for.
    :param hub_tag: the hub's word for the task, its ``pipeline_tag``.
    :param model: what a model of it is called in a sentence.
    :param reads: what such a model reads, in the plural.
    :param intended_use: which input it is made for, in sentences for the model card.
    :param example: what is given to such a model, as Python writes it.
    :param parts: its code; ``None`` while this version can neither train nor serve it.
    """

    name: str
    texts: int = 1
    columns: Mapping[Literal["text", "label"], str] = field(default_factory=dict)
    writes: Writes = "label"
    has_encoder: bool | None = None
    metrics: Literal["classification", "multi_label", "generation"] | None = None
    default_metrics: tuple[str, ...] = ("accuracy", "f1")
    in_training: tuple[str, ...] | None = None
    hub_tag: str
    model: str
    reads: str = "texts"
    intended_use: str = ""
    example: str = '"some text"'
    parts: Parts | None = None

    @property
    def answers_with(self) -> Literal["label", "text"]:
        """By what its models are asked for: labels, however many of them apply, or text."""
        return "text" if self.writes == "text" else "label"

    def part(self, name: str) -> Any:
        """The code of a part, imported now.

        :param name: a field of :class:`Parts`. The task must have parts.
        """
        return pkgutil.resolve_name(getattr(self.parts, name))

    def loading_code(
        self, store: str, model: str, *, channel: str = DEFAULT_CHANNEL, public_keys: Sequence[str] = ()
    ) -> str:
        """Three lines of Python that load a published model of this task, and ask it something.

        :param public_keys: what a client has to pin, where the pipeline signs.
        """
        more = f", channel={_quoted(channel)}" if channel != DEFAULT_CHANNEL else ""
        if public_keys:
            more += f", public_keys=[{', '.join(map(_quoted, public_keys))}]"
        kind = "Generator" if self.writes == "text" else "Classifier"
        return (
            f"from retrainer.serve import {kind}\n"
            f"{kind.lower()} = {kind}.from_store({_quoted(store)}, {_quoted(model)}{more})\n"
            f"print({kind.lower()}({self.example}))"
        )


def _quoted(text: str) -> str:
    """A Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)
