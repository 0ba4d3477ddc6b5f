"""Published models in a folder or a bucket: immutable versions, channels that point at them, a log of each move."""

from retrainer.store.bundle import BundleInfo, GoldenRow, PrecisionEntry
from retrainer.store.causes import Cause
from retrainer.store.manifest import FileEntry, Manifest
from retrainer.store.move import Move
from retrainer.store.moving import Published
from retrainer.store.reading import VersionInfo
from retrainer.store.signing import Keyring, PublicKey, Signature, Signer
from retrainer.store.store import ModelStore, Store

__all__ = [
    "BundleInfo",
    "Cause",
    "FileEntry",
    "GoldenRow",
    "Keyring",
    "Manifest",
    "ModelStore",
    "Move",
    "PrecisionEntry",
    "PublicKey",
    "Published",
    "Signature",
    "Signer",
    "Store",
    "VersionInfo",
]
