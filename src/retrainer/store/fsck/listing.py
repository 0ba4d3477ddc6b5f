"""The objects of one model, sorted by what they are, and reading them so that one bad object stops nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from retrainer.errors import IntegrityError, NotFoundError, RetrainerError
from retrainer.storage import ObjectInfo, Storage
from retrainer.store.ledger import Ledger
from retrainer.store.names import (
    MANIFEST,
    MOST_MANIFEST,
    MOST_RECORD,
    SUMMARY,
    channel_folder,
    check_name,
    is_name,
    is_version,
)
from retrainer.store.parallel import in_parallel

# What a probe for conditional writes leaves.
_PROBE = re.compile(r"\.probe[^/]*")
_SEQUENCE = re.compile(r"(?!0{10})[0-9]{10}")
_INTENT = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}\.txt")
_ROWS = re.compile(r"[0-9a-f]{64}\.bin")
_SHOWN = 5
# Objects of a channel by which a model is known. They are nobody else's.
_OF_A_CHANNEL = re.compile(r"[^/]+/([0-9]{10}|latest)\.json")


@dataclass
class Listing:
    """Every object of a model.

    :ivar channels: channel -> the numbers of its moves.
    :ivar entries: the numbers of the entries of the ledger.
    :ivar rows: names of the sets of test rows.
    :ivar versions: version -> name within it -> the object, manifest, signatures and note of a removal included.
    :ivar unknown: what has no place in the layout.
    """

    channels: dict[str, list[int]] = field(default_factory=dict)
    entries: list[int] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, ObjectInfo]] = field(default_factory=dict)
    unknown: list[ObjectInfo] = field(default_factory=list)

    @classmethod
    def of(cls, storage: Storage, model: str) -> Listing:
        """List a model."""
        listing = cls()
        start = f"{model}/"
        for info in storage.list(start):
            if not listing._sort(info, info.key.removeprefix(start).split("/")):
                listing.unknown.append(info)
        return listing

    def _sort(self, info: ObjectInfo, parts: list[str]) -> bool:
        """Whether the object has a place in the layout, and was put there."""
        stem = parts[-1].removesuffix(".json")
        is_json = stem != parts[-1]
        match parts:
            case [name] if name == SUMMARY or _PROBE.fullmatch(name):
                pass
            case ["channels", channel, _] if is_json and is_name(channel) and _SEQUENCE.fullmatch(stem):
                self.channels.setdefault(channel, []).append(int(stem))
            case ["channels", channel, "latest.json"] if is_name(channel):
                self.channels.setdefault(channel, [])
            case ["decisions", _] if is_json and _SEQUENCE.fullmatch(stem):
                self.entries.append(int(stem))
            case ["rows", name] if _ROWS.fullmatch(name):
                self.rows.append(name.removesuffix(".bin"))
            case ["intents", name] if _INTENT.fullmatch(name):
                pass
            case ["versions", version, *inner] if inner and all(inner) and is_version(version):
                self.versions.setdefault(version, {})["/".join(inner)] = info
            case _:
                return False
        return True


def models_of(storage: Storage, named: Iterable[str] | None = None) -> list[str]:
    """The models of a store, or those that are named, sorted: folders that hold a model or part of one.

    A folder of somebody else's that is called ``channels`` makes no model: an object of the layout has to be there.

    :raises NotFoundError: a model that is named is not there; or there is none at all, as in a place that is empty, was
        emptied or mistyped.
    :raises StorageError: no model can have that name.
    """
    folders = storage.list_folders()
    present = [name for name in folders if is_name(name) and _is_model(storage, name)]
    if not present:
        holds = f"; there are the folders {', '.join(folders[:_SHOWN])}" if folders else ""
        hint = f"give what the pipeline file says under publish.store{holds}"
        raise NotFoundError("no models are there", where=storage.url, hint=hint)
    chosen = [check_name("model", model, where=storage.where()) for model in named or present]
    for model in chosen:
        if model not in present:
            raise NotFoundError(f"no model '{model}'", where=storage.url, hint=f"it holds {', '.join(present)}")
    return chosen


def _is_model(storage: Storage, name: str) -> bool:
    folders = storage.list_folders(name)
    if "versions" in folders and any(map(is_version, storage.list_folders(f"{name}/versions"))):
        return True
    if "decisions" in folders and Ledger(storage, name).numbers():
        return True  # judged, and never published
    start = channel_folder(name)
    return "channels" in folders and any(
        _OF_A_CHANNEL.fullmatch(info.key.removeprefix(start)) for info in storage.list(start)
    )


def read_object(storage: Storage, key: str) -> bytes:
    """The content of one object.

    :raises NotFoundError: it is not there.
    :raises IntegrityError: it is there and cannot be read, though the store can.
    """
    try:
        return storage.read(key, most=MOST_MANIFEST if key.endswith(f"/{MANIFEST}") else MOST_RECORD)
    except NotFoundError:
        raise
    except RetrainerError as error:
        raise as_unreadable(storage, key, error) from error


def as_unreadable(storage: Storage, key: str, error: RetrainerError) -> IntegrityError:
    """The error for one object that cannot be read. Raises, where it is the store that cannot be reached."""
    storage.list_folders(key.partition("/")[0])
    return IntegrityError(
        f"cannot be read: {error.message}", where=storage.where(key), hint=error.hint or "look at its permissions"
    )


Content = bytes | NotFoundError | IntegrityError


def read_objects(storage: Storage, keys: Iterable[str]) -> dict[str, Content]:
    """Several objects, each its content or why there is none."""
    several = list(keys)

    def one(key: str) -> Content:
        try:
            return read_object(storage, key)
        except (NotFoundError, IntegrityError) as error:
            return error

    return dict(zip(several, in_parallel(one, several), strict=True))
