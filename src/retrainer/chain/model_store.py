"""The model of a pipeline in its store, read and written with the keys that the pipeline names.

Whoever reads the store for a pipeline opens it here, so that nothing unsigned slips in where keys are trusted. Not
here: where a private key comes from (``store/signing_keys.py``).
"""

from __future__ import annotations

import importlib.util
import os

from retrainer.errors import ResourceError, UserError
from retrainer.spec.model import Pipeline
from retrainer.spec.publish import Publish
from retrainer.store import Keyring, ModelStore, Move, Signer, Store
from retrainer.store.signing_keys import SIGNING_KEY, load_signer, signer_of_pem
from retrainer.tasks import TASKS


def model_of(pipeline: Pipeline, *, signer: Signer | None = None) -> ModelStore:
    """The pipeline's model in its store. Nothing is read yet but files of public keys.

    :param signer: signs what is written.
    :raises UserError: a trusted key cannot be read.
    """
    publish = pipeline.publish
    return Store.open(publish.store, signer=signer, trusted=keyring_of(publish)).model(pipeline.name)


def loading_code(pipeline: Pipeline) -> str:
    """Three lines of Python that load the model that the pipeline publishes, and ask it something."""
    publish = pipeline.publish
    return TASKS[pipeline.task].loading_code(
        publish.store, pipeline.name, channel=publish.channel, public_keys=publish.trusted_keys
    )


def keyring_of(publish: Publish) -> Keyring | None:
    """The public keys that a pipeline trusts; ``None`` where it trusts the store.

    :raises UserError: one cannot be read.
    """
    if publish.trusted_keys:
        _require_cryptography()
    return Keyring.of(publish.trusted_keys)


def signer_of(publish: Publish, *, pem: str | None = None) -> Signer | None:
    """The key that a pipeline signs with, ready to sign; ``None`` where it signs nothing.

    :param pem: the key itself, where somebody else has read it (an Airflow connection).
    :raises UserError: there is no such key, it cannot be used, or the pipeline would not trust what it signs.
    """
    if publish.sign_with is None:
        return None
    _require_cryptography()
    signer = load_signer(publish.sign_with) if pem is None else signer_of_pem(pem.encode(), where=publish.sign_with)
    trusted = keyring_of(publish)
    if trusted is not None and signer.public.key_id not in trusted.key_ids():
        raise UserError(
            f"signs with the key {signer.public.key_id}, which is none of publish.trusted_keys",
            where=publish.sign_with,
            hint=f"add its public key to them: {signer.public}",
        )
    return signer


def check_keys(publish: Publish) -> Signer | None:
    """The same as ``signer_of``, before there is anything to sign: what is wrong is found out now.

    ``$RETRAINER_SIGNING_KEY`` stays where it is, for the process that signs.

    :raises UserError: as ``signer_of``; or a trusted key cannot be read.
    """
    source = publish.sign_with or ""
    # Loading a key from there takes the variable away.
    in_environment = source.startswith("airflow:") or source == f"env:{SIGNING_KEY}"
    return signer_of(publish, pem=os.environ.get(SIGNING_KEY) if in_environment else None)


def variables_with_keys(publish: Publish) -> set[str]:
    """The environment variables that may hold the private key, which no process but the one that signs is to see."""
    kind, _, name = (publish.sign_with or "").partition(":")
    return {SIGNING_KEY, name} if kind == "env" else {SIGNING_KEY}


def check_channel(publish: Publish, newest: Move | None) -> None:
    """Whether the pipeline may move its channel.

    :param newest: move of the channel.
    :raises UserError: the channel is signed, and the pipeline signs nothing.
    """
    if newest is not None and newest.signature is not None and publish.sign_with is None:
        raise UserError(
            f"the channel '{publish.channel}' is signed by the key {newest.signature.key_id}, and this pipeline "
            "signs nothing",
            where="publish.sign_with",
            hint="name the private key: nothing unsigned takes the place of what is signed",
        )


def _require_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise ResourceError(
            "cryptography not installed, which signatures need",
            where="publish.sign_with",
            hint="pip install 'airflow-retrainer[serve]'",
        )
