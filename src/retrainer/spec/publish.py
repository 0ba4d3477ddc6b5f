"""``publish`` of a pipeline file: where a promoted model goes, and which keys vouch for it.

A private key is never part of the file: ``sign_with`` names the place that it is read from. Public keys may be in
it. Not here: reading either (``retrainer.store``).
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from retrainer.records import Record
from retrainer.spec.approval import NO_APPROVAL, Approval
from retrainer.spec.fields import Name, Text, as_list
from retrainer.spec.paths import StorePath, absolute, absolute_file, from_folder
from retrainer.spec.problems import refuse_one

PUBLIC = "ed25519:"
SOURCES = ("file", "env", "airflow")

_NAMES = {
    "env": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    # What Airflow allows in the id of a connection.
    "airflow": re.compile(r"[\w.\-]{1,250}"),
}
# How a PEM, or the base64 of a PKCS #8 of Ed25519 without its armour, gives itself away; or any secret of that length.
_PEM = re.compile(r"-----|PRIVATE KEY|MC4CAQAwBQYDK2Vw")
_RANDOM = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}|[0-9a-fA-F]{64}")
_FORMS = "file:PATH, env:NAME or airflow:CONNECTION"


def _source_of_key(value: str) -> str:
    """The value itself. What is wrong with it is said without it: somebody may have put the key itself there."""
    kind, _, name = value.partition(":")
    if _PEM.search(value) or _RANDOM.fullmatch(value) or (kind != "file" and _RANDOM.fullmatch(name)):
        refuse_one(
            f"this looks like a key itself, and a pipeline file must not hold one; name where it is kept: {_FORMS}"
            " (and make a new key if others could read this file)"
        )
    if kind not in SOURCES or not name:
        refuse_one(f"does not name the place of a private key; write {_FORMS}")
    if kind in _NAMES and not _NAMES[kind].fullmatch(name):
        what = "environment variable" if kind == "env" else "Airflow connection"
        refuse_one(f"'{kind}:' is not followed by the name of an {what}")
    return value


def _public_key(value: str) -> str:
    if "PRIVATE KEY" in value or "MC4CAQAwBQYDK2Vw" in value:
        refuse_one("this is a private key; trust the public one, and make a new pair if others could read this file")
    if "-----BEGIN" in value:
        refuse_one(f"write the key as {PUBLIC}..., as 'retrainer keygen' prints it, or the path of its file")
    if value.startswith(PUBLIC):
        try:
            length = len(base64.b64decode(value.removeprefix(PUBLIC), validate=True))
        except ValueError:  # binascii.Error, or characters that are not ASCII
            length = 0
        if length != 32:
            refuse_one(f"'{value}' is not an Ed25519 public key: {PUBLIC} and 32 bytes in base64")
    return value


def _absolute_source(value: str, base: Path) -> str:
    kind, _, name = value.partition(":")
    return f"file:{absolute(name, base)}" if kind == "file" else value


def _absolute_key(value: str, base: Path) -> str:
    return value if value.startswith(PUBLIC) else absolute_file(value, base)


PrivateKeySource = Annotated[Text, AfterValidator(_source_of_key), from_folder(_absolute_source)]
PublicKeyText = Annotated[Text, AfterValidator(_public_key), from_folder(_absolute_key)]


class Publish(Record):
    """Where a promoted model goes."""

    store: StorePath = Field(description="s3://bucket/prefix, file:///folder, or a folder relative to this file.")
    channel: Name = Field("production", description="The channel that a promoted model moves.")
    approval: Annotated[
        Approval, BeforeValidator(lambda value: value, json_schema_input_type=Literal["none", "required"] | Approval)
    ] = Field(
        NO_APPROVAL, description="Whether a person has to approve: 'none', 'required', or a mapping that says more."
    )
    sign_with: PrivateKeySource | None = Field(
        None,
        description="Where the Ed25519 private key that signs what is published is kept: file:PATH, env:NAME, or "
        "airflow:CONNECTION, whose password holds it. Never the key itself.",
    )
    trusted_keys: Annotated[
        tuple[PublicKeyText, ...],
        BeforeValidator(as_list, json_schema_input_type=PublicKeyText | tuple[PublicKeyText, ...]),
    ] = Field(
        (),
        description="Public keys, 'ed25519:...' or paths of their files: a champion that none of them signed is not "
        "trusted. Without any, whoever can write to the store is trusted.",
    )
    include_checkpoint: bool = Field(
        False, description="Also publish the torch checkpoint, which training.blend_with_champion needs."
    )

    @model_validator(mode="after")
    def _what_is_published_can_be_trusted(self) -> Self:
        if len(set(self.trusted_keys)) != len(self.trusted_keys):
            refuse_one("list each key only once", "trusted_keys")
        if self.trusted_keys and self.sign_with is None:
            refuse_one("what is published unsigned would not be trusted the next time; give sign_with", "trusted_keys")
        return self
