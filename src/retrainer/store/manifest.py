"""The manifest of a version: what was published, from what, and every file with its size and hash.

It holds nothing that depends on when or where it was published: the same content is the same version.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from retrainer.records import Record, digest_of
from retrainer.store.bundle import PrecisionEntry
from retrainer.store.names import MANIFEST, REMOVAL, FileName, Sha256


class FileEntry(Record):
    """One file of a version.

    :ivar size: bytes.
    """

    size: int = Field(ge=0)
    sha256: Sha256


class Manifest(Record):
    """``manifest.json``.

    :ivar labels: in the order of the logits; none of a model that writes text.
    :ivar max_length: tokens a text is cut to.
    :ivar precisions: ``fp32``, ``int8`` -> graph and its weight types.
    :ivar files: every file of the version but the manifest itself.
    :ivar metrics: of the fp32 graph on the test split.
    :ivar base_revision: fingerprint or commit of the base model's files.
    :ivar artifacts: step -> digest of the artifact that this version came from.
    :ivar libraries: distribution -> version, of the process that made it.
    """

    format_version: Literal[1] = 1
    model: str
    task: str
    labels: tuple[str, ...]
    max_length: int = Field(ge=1)
    precisions: dict[str, PrecisionEntry]
    files: dict[FileName, FileEntry]
    metrics: dict[str, FiniteFloat]
    base_model: str
    base_revision: str
    artifacts: dict[str, str]
    libraries: dict[str, str]
    git_commit: str | None

    @model_validator(mode="after")
    def _files_are_complete(self) -> Self:
        for name in {MANIFEST, REMOVAL} & self.files.keys():
            raise ValueError(f"{name} is the store's own, and cannot be a file of a version")
        for name, entry in self.precisions.items():
            for file in entry.files:
                if file not in self.files:
                    raise ValueError(f"the {name} graph {file} is not among the files")
        return self

    @property
    def version(self) -> str:
        """The name of this content: the first 16 hex digits of its SHA-256."""
        return digest_of(self.model_dump(mode="json"))[:16]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())
