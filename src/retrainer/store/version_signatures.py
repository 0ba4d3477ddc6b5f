"""The signatures of a version: one file for each key that vouches for it, beside its files.

A signature covers the hash of the manifest, and with it every file. Not here: the cryptography (``signing.py``).
"""

from __future__ import annotations

from retrainer.errors import IntegrityError, NotFoundError, SignatureError
from retrainer.storage import Storage
from retrainer.store.names import MOST_RECORD, SIGNATURES, signature_key, version_key
from retrainer.store.signing import Keyring, PublicKey, Signer, VersionSignature, VersionStatement


def read_signature(storage: Storage, model: str, version: str, key_id: str) -> VersionSignature | None:
    """What is where that key's signature of the version would be; not checked. ``None`` for nothing.

    :raises IntegrityError: it cannot be read.
    """
    key = signature_key(model, version, key_id)
    try:
        data = storage.read(key, most=MOST_RECORD)
    except NotFoundError:
        return None
    return VersionSignature.from_json(data, where=storage.where(key))


def list_signatures(storage: Storage, model: str, version: str) -> tuple[VersionSignature, ...]:
    """All signatures of a version, whoever made them, by key; not checked.

    :raises IntegrityError: one cannot be read.
    """
    start = version_key(model, version, f"{SIGNATURES}/")
    keys = [info.key.removeprefix(start).removesuffix(".json") for info in storage.list(start)]
    found = (read_signature(storage, model, version, key_id) for key_id in keys)
    return tuple(signature for signature in found if signature is not None)


def trusted_signatures(storage: Storage, trusted: Keyring, statement: VersionStatement) -> tuple[VersionSignature, ...]:
    """The signatures of a version by keys that are trusted, in their order, each checked.

    :param statement: what each has to say.
    :raises SignatureError: one is there and does not hold.
    """
    found = [(key, read_signature(storage, statement.model, statement.version, key.key_id)) for key in trusted.keys]
    for key, signature in found:
        if signature is not None:
            check_signature(storage, key, signature, statement)
    return tuple(signature for _, signature in found if signature is not None)


def require_trusted(storage: Storage, trusted: Keyring, statement: VersionStatement) -> None:
    """Insist that one of several keys signed a version. They are asked for in their order; one is enough.

    :param statement: what it has to say.
    :raises SignatureError: no trusted key signed that, or the signature was altered.
    """
    refusal: IntegrityError | None = None
    for key in trusted.keys:
        try:
            found = read_signature(storage, statement.model, statement.version, key.key_id)
            if found is not None:
                check_signature(storage, key, found, statement)
                return
        except IntegrityError as error:  # another trusted key may have signed as well
            refusal = refusal or error
    if refusal is not None:
        raise SignatureError(refusal.message, where=refusal.where, hint=refusal.hint)
    raise SignatureError(
        f"the version {statement.version} is not signed by a key that is trusted here",
        where=storage.where(version_key(statement.model, statement.version, SIGNATURES)),
        hint=f"trusted: {', '.join(trusted.key_ids())}; publish with the private key, or pin the key that signed it",
    )


def check_signature(storage: Storage, key: PublicKey, found: VersionSignature, statement: VersionStatement) -> None:
    """Insist that a key signed just that statement.

    :raises SignatureError: it signed another, or did not sign.
    """
    where = storage.where(signature_key(statement.model, statement.version, key.key_id))
    if found.statement != statement:
        raise SignatureError(
            f"the signature is of another version or of another manifest: {found.statement.model}"
            f" {found.statement.version}",
            where=where,
            hint="the store was altered; restore it from a backup, or sign the version again",
        )
    Keyring((key,)).check(found.signature, statement.signed_bytes(), what="the version", where=where)


def add_signature(storage: Storage, signer: Signer, statement: VersionStatement) -> VersionSignature:
    """Sign a version, unless this key did so already. What is there and does not hold is written over.

    Whoever has the key writes the same bytes: a signature of Ed25519 depends on nothing but key and statement.
    """
    key = signature_key(statement.model, statement.version, signer.public.key_id)
    try:
        present = VersionSignature.from_json(storage.read(key, most=MOST_RECORD), where=storage.where(key))
        check_signature(storage, signer.public, present, statement)
    except (NotFoundError, IntegrityError):
        signature = VersionSignature(statement=statement, signature=signer.sign(statement.signed_bytes()))
        storage.write(key, signature.to_pretty_json().encode())
        return signature
    return present
