"""Where keys come from, and how a pair is made. A private key is never printed, logged, quoted or put into a record.

The source of a private key is named, the key is not: ``file:/path/to/release.key``, ``env:NAME``, or
``airflow:connection``, which only Airflow's operators can resolve; they hand the key to the step's process as
``$RETRAINER_SIGNING_KEY``. Public keys, which readers pin, come from ``$RETRAINER_PUBLIC_KEYS``.
Not here: what is signed (``signing.py``).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrainer.errors import ResourceError, UserError
from retrainer.regular_files import open_regular
from retrainer.store.signing import Keyring, PublicKey, Signer, may_be_a_key, path_of_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

SIGNING_KEY = "RETRAINER_SIGNING_KEY"
PUBLIC_KEYS = "RETRAINER_PUBLIC_KEYS"

PRIVATE_SUFFIX = ".key"
PUBLIC_SUFFIX = ".pub"

# A key has a few hundred bytes. What is longer is another file, and need not be read to its end.
_MOST_BYTES = 64 * 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----(.*?)-----END PRIVATE KEY-----", re.DOTALL)
_MAKE_A_PAIR = "make a pair with 'retrainer keygen'"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Two files that ``make_key_pair`` wrote.

    :ivar private: a PEM of PKCS #8 that only its owner may read.
    :ivar public: one line, ``ed25519:...``.
    """

    private: Path
    public: Path
    key: PublicKey


def make_key_pair(path: Path) -> KeyPair:
    """Make a new pair: ``<path>.key`` and ``<path>.pub``. Files that are there are never written over.

    :param path: without its suffix; ``.key`` or ``.pub`` at its end is taken off.
    :raises UserError: one of the files is there already, or the path has no name.
    :raises ResourceError: they cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path = path_of_key(path)
    if path.name in {"", ".", ".."}:
        raise UserError(
            "names a folder, not a pair of keys",
            where=str(path),
            hint="give a path with a name at its end: keys/release",
        )
    stem = path.with_suffix("") if path.suffix in {PRIVATE_SUFFIX, PUBLIC_SUFFIX} else path
    private, public = (stem.with_name(stem.name + suffix) for suffix in (PRIVATE_SUFFIX, PUBLIC_SUFFIX))
    for file in (private, public):
        if os.path.lexists(file):
            raise _is_there(file)
    key = Ed25519PrivateKey.generate()
    signer = Signer(key)
    _create(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    try:
        _create(public, f"{signer.public}\n".encode(), mode=0o644)
    except UserError:
        private.unlink()  # nobody has it yet; half a pair would only be in the way
        raise
    return KeyPair(private, public, signer.public)


def _create(path: Path, data: bytes, *, mode: int) -> None:
    """Write a new file that has its mode from the moment it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise _is_there(path) from None
    except OSError as error:
        raise ResourceError(f"the key cannot be written: {error.strerror}", where=str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise ResourceError(f"the key cannot be written: {error.strerror}", where=str(path)) from None


def _is_there(path: Path) -> UserError:
    return UserError(
        "is there already; a key is never written over",
        where=str(path),
        hint="choose another name; what is there may be the key that signs a store",
    )


def load_signer(source: str) -> Signer:
    """The signer that a source names: ``file:PATH`` or ``env:NAME``, each a PEM of PKCS #8 as keygen makes it.

    ``airflow:CONNECTION`` is answered from ``$RETRAINER_SIGNING_KEY``, which the operators set for the step's process.
    That variable is taken out of the environment once it was read, so that no process started from here inherits it;
    a process loads it once.

    :raises UserError: there is no such source, it holds no Ed25519 private key, or others may read it. The message
        never quotes what it holds.
    """
    kind, _, name = source.partition(":")
    if may_be_a_key(source) or kind not in {"file", "env", "airflow"} or not name:
        # Whatever this is, it is not shown: people put the key itself there by mistake.
        raise UserError(
            "the source of the private key is not one of those that there are",
            hint="file:PATH, env:NAME or, in a pipeline under Airflow, airflow:CONNECTION; never the key itself",
        )
    if kind == "file":
        return signer_of_pem(_read_private(path_of_key(name), where=source), where=source)
    variable = name if kind == "env" else SIGNING_KEY
    if _VARIABLE.fullmatch(variable) is None:
        raise UserError("no environment variable can have that name", where="env:", hint="env:NAME")
    value = os.environ.pop(variable, "") if variable == SIGNING_KEY else os.environ.get(variable, "")
    if not value.strip():
        hint = (
            f"set ${variable} to the PEM"
            if kind == "env"
            else "only Airflow can read its connections; elsewhere use file:PATH or env:NAME"
        )
        raise UserError("there is no private key", where=source, hint=hint)
    return signer_of_pem(value.encode(errors="surrogateescape"), where=source)


def _read_private(path: Path, *, where: str) -> bytes:
    """The bytes of a file that nobody else may read, as ssh insists.

    A file of another owner may be read by its group: so secrets are mounted into containers.
    """
    try:
        with open_regular(path) as stream:
            status = os.fstat(stream.fileno())
            others = stat.S_IMODE(status.st_mode) & (0o077 if status.st_uid == os.geteuid() else 0o007)
            if others:
                raise UserError(
                    f"others may read this private key: its mode is {stat.S_IMODE(status.st_mode):04o}",
                    where=where,
                    hint=f"chmod 600 {path}; if others could read it, make a new one and rotate",
                )
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"the private key cannot be read: {error.strerror}", where=where, hint=f"{_MAKE_A_PAIR}, or name another"
        ) from None
    if len(data) > _MOST_BYTES:
        raise UserError("too long for a private key", where=where, hint=_MAKE_A_PAIR)
    return data


def signer_of_pem(data: bytes, *, where: str) -> Signer:
    """The signer of a private key: a PEM of PKCS #8 without a password, or what stands in one between its marks.

    Line breaks may be missing, or be ``\\n`` in two characters: forms and environment files make that of them.

    :raises UserError: it is none, or not one of Ed25519. The message never quotes it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = _private_key(data)
    if isinstance(key, Ed25519PrivateKey):
        return Signer(key)
    if key is not None:
        message, hint = "a private key of another kind than Ed25519", _MAKE_A_PAIR
    elif b"ENCRYPTED" in data:
        message, hint = "the private key has a password", f"nobody is there to type it: {_MAKE_A_PAIR}, which has none"
    elif b"BEGIN OPENSSH PRIVATE KEY" in data:
        message, hint = "a private key of OpenSSH, not of PKCS #8", _MAKE_A_PAIR
    elif data.lstrip().startswith(b"ed25519:") or b"BEGIN PUBLIC KEY" in data:
        message, hint = "this is a public key", f"the private one is in the file that ends in {PRIVATE_SUFFIX}"
    else:
        message, hint = "not a private key", _MAKE_A_PAIR
    raise UserError(message, where=where, hint=hint)


def _private_key(data: bytes) -> PrivateKeyTypes | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    found = _PEM.search(data)
    body = b"".join((found[1] if found else data).replace(b"\\n", b"").split())
    try:
        return load_der_private_key(base64.b64decode(body, validate=True), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error):
        return None


def public_keys_from_environment(environment: Mapping[str, str] | None = None) -> Keyring | None:
    """The public keys of ``$RETRAINER_PUBLIC_KEYS``: ``ed25519:...`` or paths, with commas or line breaks between.

    :return: ``None`` where the variable is not set, or empty.
    :raises UserError: it names a key that cannot be read, or holds separators only.
    """
    text = (os.environ if environment is None else environment).get(PUBLIC_KEYS, "")
    if not text:
        return None
    keys = [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]
    if not keys:
        # Whoever set it meant to pin something: reading all would be the wrong guess.
        raise UserError("names no public key", where=f"${PUBLIC_KEYS}", hint="ed25519:... or paths, or unset it")
    return Keyring.of(keys)
