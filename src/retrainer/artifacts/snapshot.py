"""The snapshot: what the ingest step leaves behind, its file names, columns and statistics.

A snapshot is a folder::

    train.parquet validation.parquet test.parquet
        row_id      str    16 hex digits that stand for the normalised text, or pair of texts; where the task writes
                           text, for the text as it is
        text        str    as it was in the data
        text_pair   str    only where the task reads pairs
        label       int64  index into the labels; where a row has any number of labels list<int64>, ascending
        target      str    in place of label where the task writes text: the output, as it was in the data
        text_key    str    only there: 16 hex digits that stand for the normalised text, by which rows leak
        slice_NAME  str    one for each column that gate.slices.by names; '' where a row has no value
    quarantine.parquet
        source      str    split and file, 'train/news.csv'
        row         int64  data row in that file, from 1; the header does not count
        reason      str    see ``QuarantineReason``
        text, text_pair, label  str or null, as they were in the data
    corrections.parquet     only where the pipeline names corrections; each of them in the order they were made
        row_id      str    as above
        label       str    what it says is right
        outcome     str    see ``CorrectionOutcome``
        who, when, why  str  as they were given
    statistics.json         ``SnapshotStatistics``

Every row that was read is in exactly one of these places, except exact duplicates, which are only counted.
Light: nothing here reads parquet. Making a snapshot is ``retrainer.work.ingest``'s business.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from retrainer.records import FileRecord, Record, unset

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
QUARANTINE = "quarantine.parquet"
CORRECTIONS = "corrections.parquet"
TEXT_KEY = "text_key"

QuarantineReason = Literal[
    "missing_text",  # null or blank
    "missing_label",  # null, NaN or blank
    "conflicting_labels",  # the same text stands there with another label, or other labels: all copies
    "also_in_test",  # a train or validation row that stands in the test file
    "also_in_validation",  # a train row that stands in the validation file
    "nearly_in_test",  # a train or validation row that is almost a test row, with the same label
    "nearly_in_validation",  # a train row that is almost a validation row, with the same label
]

CorrectionOutcome = Literal[
    "relabelled",  # rows of that text have another label now
    "already_so",  # they have that label in the data, too
    "corrected_again",  # a later correction is about the same text
    "no_such_row",  # no row has that text
]


def split_file(folder: Path, split: SplitName) -> Path:
    """The parquet file of a split."""
    return folder / f"{split}.parquet"


def slice_column(name: str) -> str:
    """The column of a split's file that holds the values of a column of the data, for the gate's slices."""
    return f"slice_{name}"


class Characters(Record):
    """How long the texts of a split are, in characters; both texts of a pair together."""

    p50: int
    p95: int
    max: int


class SplitStatistics(Record):
    """One split, counted."""

    rows: int
    label_counts: dict[str, int] = Field(description="Label to rows; every label, also those without rows.")
    characters: Characters
    without_labels: int | None = Field(
        None,
        exclude_if=unset,
        description="Rows that have none of the labels, where a row has any number of them; else left out.",
    )
    labels_a_row: float | None = Field(
        None, exclude_if=unset, description="The mean number of labels of a row, likewise."
    )


class SourceStatistics(Record):
    """One file that was read, or one split of a dataset on the hub."""

    split: SplitName = Field(description="What the pipeline file calls it; carved rows come from train.")
    name: str
    format: str
    rows: int
    size: int | None = Field(description="Bytes; unknown for a dataset on the hub.")
    reading: str | None = Field(
        None, description="How its fields were told apart, where that is not just what its suffix says."
    )


class CorrectionStatistics(Record):
    """What became of the corrections that the pipeline names."""

    outcomes: dict[CorrectionOutcome, int] = Field(description="Outcome to corrections; only outcomes that occurred.")
    relabelled: dict[SplitName, int] = Field(
        description="Rows of each split that have another label than in the data. The rows of a split are the same."
    )

    @property
    def given(self) -> int:
        """How many there are."""
        return sum(self.outcomes.values())


class SnapshotStatistics(FileRecord):
    """A snapshot, counted.

    ``source_rows`` is the sum of the splits' rows, of ``duplicates`` and of all that is ``quarantined``.
    """

    file: ClassVar[str] = "statistics.json"
    format_version: Literal[1] = 1
    labels: tuple[str, ...] = Field(
        description="Names in the order that the label column indexes; none where the task writes text."
    )
    splits: dict[SplitName, SplitStatistics]
    source_rows: int
    duplicates: int = Field(description="Rows dropped because the same text with the same label came before.")
    conflicts: int = Field(description="Distinct texts that stand there with several labels.")
    leakage: dict[str, int] = Field(
        description="'train_in_test', 'train_in_validation', 'validation_in_test' to rows taken out of the former. "
        "They are in quarantine too."
    )
    near_leakage: dict[str, int] = Field(
        default_factory=dict,
        description="The same for rows that are nearly a row of the latter with the same label, carved splits "
        "included; empty where nobody looked.",
    )
    quarantined: dict[QuarantineReason, int] = Field(description="Reason to rows; only reasons that occurred.")
    sources: tuple[SourceStatistics, ...]
    spellings: dict[str, dict[str, int]] = Field(
        default_factory=dict,
        description="Label to how it is spelled in the data, with rows; only labels that are spelled otherwise.",
    )
    corrections: CorrectionStatistics | None = Field(
        None, description="What became of corrections of labels; null where the pipeline names none."
    )
