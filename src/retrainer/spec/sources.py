"""Where rows come from: files, or a dataset of the hub. Sections that name data share these types.

Not here: which columns hold what (``Dataset`` in ``model.py``), reading (``retrainer.sources``).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag

from retrainer.records import Record
from retrainer.spec.fields import Text, as_list
from retrainer.spec.paths import FilePath, IdOrFolder


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
