"""The base of every record that crosses a process, a file or a network, and its canonical form.

A record is frozen and typed, refuses unknown fields, and has exactly one JSON form: sorted keys, no
white space, no NaN. Digests and signatures are taken over that form, so it must never change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from retrainer.errors import ArtifactError, IntegrityError


class Record(BaseModel):
    """A frozen, typed record with one canonical JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def to_json(self) -> bytes:
        """The canonical form, as UTF-8.

        :raises ValueError: a float in it is NaN or infinite.
        """
        return canonical_json(self.model_dump(mode="json"))

    def to_pretty_json(self) -> str:
        """The same content for people: indented, fields in declared order, newline at the end."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, data: bytes | str, *, where: str) -> Self:
        """Parse and validate.

        :param where: what is being read, for the error message.
        :raises IntegrityError: it is not JSON, or not this record.
        """
        return cls._validated(cls.model_validate_json, data, where)

    @classmethod
    def from_content(cls, content: Mapping[str, Any], *, where: str) -> Self:
        """The same of what a document holds, already parsed.

        :raises IntegrityError: it is not this record.
        """
        return cls._validated(cls.model_validate, content, where)

    @classmethod
    def _validated(cls, validate: Callable[[Any], Self], value: object, where: str) -> Self:
        try:
            return validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "document"
            raise IntegrityError(
                f"not a valid {cls.__name__}: {place}: {first['msg']}",
                where=where,
                hint="the file was damaged, or written by another version of retrainer",
            ) from None


class FileRecord(Record):
    """A record that is a file of its own: named here, read and written by the folder that holds it.

    :cvar file: the name.
    :cvar pretty: whether it is laid out for people.
    """

    file: ClassVar[str]
    pretty: ClassVar[bool] = True

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The record that a folder holds.

        :raises ArtifactError: there is none, or it cannot be read.
        :raises IntegrityError: the file is not this record.
        """
        path = folder / cls.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"no {cls.file}: {error.strerror}", where=str(folder), hint="run the step that writes it again"
            ) from None
        return cls.from_json(data, where=str(path))

    def save(self, folder: Path) -> None:
        """Write the record into a folder."""
        data = self.to_pretty_json().encode() if self.pretty else self.to_json()
        (folder / self.file).write_bytes(data)


def unset(value: object) -> bool:
    """For ``Field(exclude_if=unset)``: a field that came later, and that records without it do not show.

    They keep their bytes, and what is named by the digest of these keeps its name.
    """
    return value is None


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no white space, as UTF-8: the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a mapping, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
