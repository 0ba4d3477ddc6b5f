"""Where a private key comes from, and how a pair is made. A key is never printed, logged or put into a record.

A source is named, the key is not: ``file:/path/to/release.key``, ``env:NAME``, or ``airflow:connection``, which only
Airflow's operators can resolve; they hand the key to the step's process as ``$RETRAINER_SIGNING_KEY``.
"""

from __future__ import annotations

import os
from pathlib import Path

from retrainer.errors import UserError
from retrainer.store.signing import Signer

SIGNING_KEY = "RETRAINER_SIGNING_KEY"


def load_signer(source: str) -> Signer:
    """The signer that a source names: ``file:PATH`` or ``env:NAME``, each a PEM of PKCS #8 as keygen makes it.

    ``airflow:CONNECTION`` is answered from ``$RETRAINER_SIGNING_KEY``, which the operators set for the step's process.

    :raises UserError: there is no such source, or it holds no Ed25519 private key. The message never quotes it.
    """
    kind, _, name = source.partition(":")
    if kind == "file" and name:
        try:
            return signer_of_pem(Path(name).expanduser().read_bytes(), where=source)
        except OSError as error:
            raise UserError(f"the private key cannot be read: {error.strerror}", where=source) from None
    if kind in {"env", "airflow"} and name:
        variable = name if kind == "env" else SIGNING_KEY
        value = os.environ.get(variable)
        if not value:
            hint = f"set ${variable}" if kind == "env" else "only Airflow can read it; elsewhere use file: or env:"
            raise UserError("there is no private key", where=source, hint=hint)
        return signer_of_pem(value.encode(), where=source)
    raise UserError("names no private key", where=source, hint="file:PATH, env:NAME or airflow:CONNECTION")


def signer_of_pem(data: bytes, *, where: str) -> Signer:
    """The signer of a private key.

    :raises UserError: it is none, or not one of Ed25519.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(
            "not an Ed25519 private key without a password", where=where, hint="make a pair with 'retrainer keygen'"
        )
    return Signer(key)
