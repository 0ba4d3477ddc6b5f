"""Names in the store and where things are: models, channels, versions, the keys of the layout.

::

    <model>/versions/<version>/manifest.json              and the files that it lists
                              /signatures/<key id>.json   who vouches for it
                              /removal.json               gc is removing it
    <model>/channels/<channel>/<number>.json              one move of the channel, written once
                              /latest.json                a hint where the newest move is
    <model>/intents/<version>-<id>.txt                    a channel is about to be pointed at that version
    <model>/decisions/<number>.json                       one entry of the ledger of decisions, written once
    <model>/rows/<sha256>.bin                             a set of test rows that entries name
    <model>/summary.json                                  what pages show of the model; nobody relies on it
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints

from retrainer.errors import NotFoundError, StorageError, UserError
from retrainer.storage.keys import RESERVED

MANIFEST = "manifest.json"
SIGNATURES = "signatures"
REMOVAL = "removal.json"
SUMMARY = "summary.json"
# Of a model. Beside them is only what a probe for conditional writes leaves.
FOLDERS = ("channels", "decisions", "intents", "rows", "versions")
# Bytes of an object that is read before anything vouches for it. A move, a hint, a signature or a note has a few
# hundred, and the words of a reason; a manifest a hundred for each file, and the labels. No publisher writes more.
MOST_RECORD = 64 * 1024
# Of these an actor, or a reason, so that a record is never too large.
MOST_WORDS = 8 * 1024
MOST_MANIFEST = 4 * 1024 * 1024
# Ten digits, so that sorted by name is sorted by move.
LAST_MOVE = 9_999_999_999

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VERSION = re.compile(r"[0-9a-f]{16}")


def _relative_path(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or "\\" in path or "\0" in path or "/".join(parts) != path or ".." in parts:
        raise ValueError("must be a relative path with '/' between its parts")
    if any(part.startswith(RESERVED) for part in parts):  # no storage takes such a key
        raise ValueError(f"no part may start with '{RESERVED}'")
    return path


# A file of a version. It becomes a path below a folder of the reader, so it must never lead out of it.
FileName = Annotated[str, AfterValidator(_relative_path)]
# It becomes a path, too.
Version = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def is_name(text: str) -> bool:
    """Whether that may name a model or a channel."""
    return _NAME.fullmatch(text) is not None


def check_name(kind: Literal["model", "channel"], text: str, *, where: str) -> str:
    """The name itself.

    :raises StorageError: it cannot name a model or a channel.
    :raises UserError: it is not even text.
    """
    _check_text(kind, text, where=where)
    if not is_name(text):
        raise StorageError(
            f"'{text}' cannot name a {kind}",
            where=where,
            hint="lower case letters, digits, '.', '_' and '-', starting with a letter or digit, at most 100",
        )
    return text


def is_version(text: str) -> bool:
    """Whether that may name a version."""
    return _VERSION.fullmatch(text) is not None


def check_version(text: str, *, where: str) -> str:
    """The version itself.

    :raises NotFoundError: no version can be called that.
    :raises UserError: it is not even text.
    """
    _check_text("version", text, where=where)
    if not is_version(text):
        raise NotFoundError(f"no version '{text}'", where=where, hint="a version is named by 16 hexadecimal digits")
    return text


def _check_text(kind: str, given: object, *, where: str) -> None:
    if not isinstance(given, str):
        raise UserError(
            f"the name of a {kind} must be text; got {given!r}",
            where=where,
            hint="None is what an environment variable that is not set gives",
        )


def check_words(**words: str) -> None:
    """Insist that what people give can be written into a record.

    :param words: by what each is called.
    :raises UserError: one cannot be written as UTF-8, as arguments that are not in the locale's code; or is longer than
        ``MOST_WORDS``.
    """
    for name, text in words.items():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise UserError(
                f"the {name} is not text: it holds bytes that are not UTF-8", hint="write it in UTF-8"
            ) from None
        if size > MOST_WORDS:
            raise UserError(f"the {name} has {size:,} bytes", hint=f"at most {MOST_WORDS:,}; put the rest elsewhere")


def version_key(model: str, version: str, file: str = MANIFEST) -> str:
    """Where a file of a version is."""
    return f"{model}/versions/{version}/{file}"


def channel_folder(model: str, channel: str = "") -> str:
    """The folder of a channel's moves, with a slash at its end; without a channel, the folder of all of them."""
    return f"{model}/channels/{channel}/" if channel else f"{model}/channels/"


def move_key(model: str, channel: str, sequence: int) -> str:
    """Where a move is. Sorted by name is sorted by move."""
    return f"{channel_folder(model, channel)}{sequence:010d}.json"


def hint_key(model: str, channel: str) -> str:
    """Where the hint is that tells the newest move."""
    return f"{channel_folder(model, channel)}latest.json"


def pointer_key_of_version_1(model: str, channel: str) -> str:
    """Where an earlier retrainer kept what a channel points at. For refusing such a store only."""
    return f"{model}/channels/{channel}.json"


def intent_key(model: str, version: str, intent_id: str) -> str:
    """Where it says that a channel is about to be pointed at a version."""
    return f"{model}/intents/{version}-{intent_id}.txt"


def ledger_folder(model: str) -> str:
    """The folder of the ledger of decisions, with a slash at its end."""
    return f"{model}/decisions/"


def entry_key(model: str, sequence: int) -> str:
    """Where an entry of the ledger is. Sorted by name is sorted by entry."""
    return f"{ledger_folder(model)}{sequence:010d}.json"


def rows_key(model: str, sha256: str) -> str:
    """Where a set of test rows is."""
    return f"{model}/rows/{sha256}.bin"


def summary_key(model: str) -> str:
    """Where the summary is that pages show."""
    return f"{model}/{SUMMARY}"


def signature_key(model: str, version: str, key_id: str) -> str:
    """Where one key's signature of a version is."""
    return version_key(model, version, f"{SIGNATURES}/{key_id}.json")
