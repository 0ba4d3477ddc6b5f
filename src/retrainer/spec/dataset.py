"""The section ``dataset``: where rows come from, which columns count, how they are split and checked.

Not here: what holds between keys (``cross_checks.py``), reading any data (``work.ingest``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from retrainer.formats import FORMATS
from retrainer.records import Record
from retrainer.spec import cross_checks
from retrainer.spec.delimited import Csv
from retrainer.spec.fields import Fraction, Text, as_list
from retrainer.spec.paths import FilePath, IdOrFolder
from retrainer.spec.problems import found, listed, refuse, refuse_one


class HubDataset(Record):
    """A dataset that ``datasets.load_dataset`` reads: from the hub, or a folder in its layout."""

    path: IdOrFolder = Field(description="Repository id on the hub, or a local folder.")
    name: str | None = Field(None, description="Configuration within the dataset, such as 'mrpc'.")
    revision: str | None = Field(None, description="Commit, tag or branch; pin a commit to be reproducible.")
    split: Text = Field("train", description="Name of the split; a slice of it is 'train[:5000]'.")


class HubSource(Record):
    """``{hub: {...}}`` in place of a path."""

    hub: HubDataset = Field(description="A dataset on the hub, or a local folder in its layout.")


def _kind_of_source(value: Any) -> str:
    return "<hub>" if isinstance(value, (dict, HubSource)) else "<paths>"


Paths = Annotated[
    tuple[FilePath, ...],
    Field(min_length=1),
    BeforeValidator(as_list, json_schema_input_type=Text | Annotated[tuple[Text, ...], Field(min_length=1)]),
]
# A tag rather than a plain union: a mistake is then explained for the form that was written, not for both.
Source = Annotated[
    Annotated[HubSource, Tag("<hub>")] | Annotated[Paths, Tag("<paths>")], Discriminator(_kind_of_source)
]


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
