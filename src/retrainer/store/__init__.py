"""Published models in a folder or a bucket: immutable versions, channels that point at them, a history of each move."""

from retrainer.store.bundle import BundleInfo, GoldenRow, PrecisionEntry
from retrainer.store.channels import Pointer
from retrainer.store.history import HistoryEntry
from retrainer.store.listing import VersionInfo
from retrainer.store.manifest import FileEntry, Manifest
from retrainer.store.moves import Published
from retrainer.store.signing import Keyring, PublicKey, Signature, Signer
from retrainer.store.store import ModelStore, Store

__all__ = [
    "BundleInfo",
    "FileEntry",
    "GoldenRow",
    "HistoryEntry",
    "Keyring",
    "Manifest",
    "ModelStore",
    "Pointer",
    "PrecisionEntry",
    "PublicKey",
    "Published",
    "Signature",
    "Signer",
    "Store",
    "VersionInfo",
]
