"""Ed25519 signatures: who may publish, and how a reader who pinned a public key can tell.

Two things are signed: a version, by a statement that names its model, its name and the SHA-256 of its manifest, and
with the manifest every file; and each move of a channel, with all that it says, the hash of the move before included.
Not here: where private keys come from
(``signing_keys.py``).

Ed25519 as in RFC 8032, from ``cryptography``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import StringConstraints

from retrainer.errors import SignatureError, UserError
from retrainer.records import Record
from retrainer.regular_files import read_regular
from retrainer.store.names import Sha256, Version

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX = "ed25519:"
# A signature over one kind of statement must never pass for one over the other.
_MOVE = b"retrainer move v2\n"
_VERSION = b"retrainer version v1\n"
# How an Ed25519 key of PKCS #8 begins in base64, whatever the key (RFC 8410, section 7).
_PRIVATE_IN_BASE64 = "MC4CAQAwBQYDK2Vw"
# A public key has a hundred bytes. What is longer is another file.
_MOST_BYTES = 64 * 1024

KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class Signature(Record):
    """A signature, and which key made it.

    :ivar key_id: the first 16 hex digits of the SHA-256 of the public key's 32 bytes.
    :ivar value: 64 bytes in base64.
    """

    algorithm: Literal["ed25519"] = "ed25519"
    key_id: KeyId
    value: str


class VersionStatement(Record):
    """What is signed of a version.

    :ivar manifest_sha256: of ``manifest.json``, byte for byte; it lists every file with its SHA-256.
    """

    model: str
    version: Version
    manifest_sha256: Sha256

    def signed_bytes(self) -> bytes:
        """The bytes that a signature of a version covers."""
        return _VERSION + self.to_json()


class VersionSignature(Record):
    """``versions/<version>/signatures/<key id>.json``: one key's signature of one version. Written once."""

    format_version: Literal[1] = 1
    statement: VersionStatement
    signature: Signature


def move_bytes(canonical: bytes) -> bytes:
    """The bytes that a signature of a move covers.

    :param canonical: the move's canonical JSON without its signature.
    """
    return _MOVE + canonical


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that a reader trusts.

    :ivar raw: its 32 bytes.
    """

    raw: bytes

    @classmethod
    def parse(cls, text: str | Path) -> Self:
        """``ed25519:<base64 of 32 bytes>``, the text of a PEM, or the path of a file that holds either.

        :raises UserError: it is no Ed25519 public key.
        """
        # A name that may hold a key is no path: an error would show it.
        if isinstance(text, str) and (may_be_a_key(text) or text.strip().startswith(PREFIX)):
            return cls._of_content(text, where="public key")
        path = path_of_key(text)
        try:
            content = read_regular(path, _MOST_BYTES).decode("utf-8", errors="replace")
        except OSError as error:
            raise UserError(
                f"the public key cannot be read: {error.strerror}",
                where=str(path),
                hint=f"give {PREFIX}... or a file made by 'retrainer keygen'",
            ) from None
        return cls._of_content(content, where=str(path))

    @classmethod
    def _of_content(cls, content: str, *, where: str) -> Self:
        if "PRIVATE KEY" in content or _PRIVATE_IN_BASE64 in content:
            raise UserError("this is a private key", where=where, hint="pin the public one; keep this one secret")
        line = content.strip()
        raw = _decoded(line.removeprefix(PREFIX)) if line.startswith(PREFIX) else _raw_of_pem(content)
        if raw is None or len(raw) != 32:
            raise UserError("not an Ed25519 public key", where=where, hint=f"{PREFIX} and 32 bytes in base64, or a PEM")
        return cls(raw)

    @property
    def key_id(self) -> str:
        """The name of this key in signatures."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def __str__(self) -> str:
        return PREFIX + base64.b64encode(self.raw).decode()

    def holds(self, signature: Signature, data: bytes) -> bool:
        """Whether this key made that signature of those bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        value = _decoded(signature.value)
        if value is None:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(value, data)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Keyring:
    """The public keys that a reader pinned; several while keys are rotated."""

    keys: tuple[PublicKey, ...]

    @classmethod
    def of(cls, keys: str | Path | Iterable[str | Path] | None) -> Self | None:
        """A keyring of one key or several, each as ``PublicKey.parse`` takes it; ``None`` for none at all.

        :raises UserError: one cannot be read.
        """
        if keys is None:
            return None
        several = [keys] if isinstance(keys, str | Path) else list(keys)
        parsed = tuple(PublicKey.parse(key) for key in several)
        return cls(parsed) if parsed else None

    def key_ids(self) -> tuple[str, ...]:
        """The names of the keys."""
        return tuple(key.key_id for key in self.keys)

    def check(self, signature: Signature | None, data: bytes, *, what: str, where: str) -> None:
        """Insist that one of these keys signed those bytes.

        :param what: what was signed, for the message: ``the version``.
        :raises SignatureError: it is unsigned, signed by another key, or was altered since.
        """
        if signature is None:
            raise SignatureError(
                f"{what} is not signed",
                where=where,
                hint="a public key is pinned here, so nothing unsigned is used; publish with the private key",
            )
        key = next((key for key in self.keys if key.key_id == signature.key_id), None)
        if key is None:
            raise SignatureError(
                f"{what} is signed by the key {signature.key_id}, which is not trusted here",
                where=where,
                hint=f"trusted: {', '.join(self.key_ids())}; pin the new key too, if keys are being rotated",
            )
        if not key.holds(signature, data):
            raise SignatureError(
                f"the signature of {what} does not hold: it was altered after it was signed",
                where=where,
                hint="the store was altered; find out by whom, and restore it from a backup",
            )


class Signer:
    """A private key that signs. It has no representation that shows the key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Signer({self.public.key_id})"

    def sign(self, data: bytes) -> Signature:
        """The signature of those bytes."""
        value = base64.b64encode(self._key.sign(data)).decode()
        return Signature(key_id=self.public.key_id, value=value)


def may_be_a_key(text: str) -> bool:
    """Whether somebody may have put a key itself where its name belongs. It must not be shown then."""
    return "-----" in text or "\n" in text or _PRIVATE_IN_BASE64 in text


def path_of_key(text: str | Path) -> Path:
    """A path as it was typed, ``~`` and ``~user`` taken for the home of one.

    :raises UserError: there is no such user, or the user has no home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(
            "there is no home folder of that user", where=str(text), hint="write the path from the root on"
        ) from None


def _decoded(text: str) -> bytes | None:
    """The bytes of base64; ``None`` for what is none.

    Only in its one canonical spelling: decoders ignore the last bits of the last character, and then a signature
    would still hold after it was edited.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return data if base64.b64encode(data).decode() == text else None


def _raw_of_pem(content: str) -> bytes | None:
    """The 32 bytes of a PEM; ``None`` when it holds no Ed25519 public key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(content.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None
