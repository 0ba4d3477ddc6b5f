"""The hooks of this package's types of connections: what Airflow's form tests them with.

The API server imports this to test a connection, and nothing before. Not here: the form (``provider_info.py``), and how
tasks read connections (``connections.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from airflow.sdk import BaseHook

from retrainer.airflow.connections import KEY_TYPE, STORE_TYPE, private_key, s3_access
from retrainer.airflow.dag_folder import read_folder
from retrainer.airflow.settings import pipelines_folder
from retrainer.chain.model_store import keyring_of
from retrainer.doctor.findings import Finding
from retrainer.doctor.stores import NO_MODEL, place_findings
from retrainer.errors import PipelineError, RetrainerError
from retrainer.spec import Pipeline
from retrainer.storage import Storage, open_storage
from retrainer.store import PublicKey
from retrainer.store.signing_keys import signer_of_pem

# Somebody waits for it, before a button.
TEST_SECONDS = 20.0


class StoreHook(BaseHook):  # type: ignore[misc]
    """A place of published models.

    :param conn_id: connection of type ``retrainer_store``.
    """

    conn_name_attr: ClassVar[str] = "conn_id"
    default_conn_name: ClassVar[str] = "retrainer_store_default"
    conn_type: ClassVar[str] = STORE_TYPE
    hook_name: ClassVar[str] = "Retrainer store"

    def __init__(self, conn_id: str = default_conn_name, logger_name: str | None = None) -> None:
        super().__init__(logger_name=logger_name)
        self.conn_id = conn_id

    def get_conn(self) -> Storage:
        """The place at the connection's address. Nothing is read yet.

        :raises RetrainerError: the connection cannot be used.
        """
        access = s3_access(self.conn_id)
        address = self.get_connection(self.conn_id).extra_dejson.get("address")
        if not address:
            raise PipelineError(
                "has no address", where="connection", hint="what to reach: s3://bucket/prefix, or a folder"
            )
        return open_storage(str(address), access=access)

    def test_connection(self) -> tuple[bool, str]:
        """Reach the place, read, list, and write under a condition; what was written is removed."""
        try:
            found = list(place_findings(self.get_conn(), NO_MODEL, "store", seconds=TEST_SECONDS))
        except RetrainerError as error:
            return False, str(error)
        wrong = [finding for finding in found if finding.state != "ok"]
        return all(finding.state != "broken" for finding in found), _sentences(wrong or found)


class SigningKeyHook(BaseHook):  # type: ignore[misc]
    """A private key that signs what is published.

    :param conn_id: connection of type ``retrainer_signing_key``.
    """

    conn_name_attr: ClassVar[str] = "conn_id"
    default_conn_name: ClassVar[str] = "retrainer_signing_key_default"
    conn_type: ClassVar[str] = KEY_TYPE
    hook_name: ClassVar[str] = "Retrainer signing key"

    def __init__(self, conn_id: str = default_conn_name, logger_name: str | None = None) -> None:
        super().__init__(logger_name=logger_name)
        self.conn_id = conn_id

    def get_conn(self) -> PublicKey:
        """The public key that belongs to it. The private one is handed out by ``connections.signer`` alone.

        :raises RetrainerError: the connection holds no key that can be used.
        """
        pem = private_key(self.conn_id, what="connection")
        return signer_of_pem(pem.encode(errors="surrogateescape"), where="private key").public

    def test_connection(self) -> tuple[bool, str]:
        """Read the key, and say which pipelines of the deployment's folder trust it."""
        try:
            public = self.get_conn()
        except RetrainerError as error:
            return False, f"{error.message}{f' ({error.hint})' if error.hint else ''}"
        return True, f"Key {public.key_id}, public key {public}. {_trust(public)}"


def _trust(public: PublicKey) -> str:
    folder = pipelines_folder()
    try:
        pipelines = [content for _, content in read_folder(folder) if isinstance(content, Pipeline)]
    except PipelineError as error:
        return f"Which pipelines trust it is not known here: {error}"
    trusting = sorted({one.name for one in pipelines if _trusts(one, public)})
    if trusting:
        return f"Trusted by {', '.join(trusting)}."
    return f"No pipeline in {folder} trusts it: add the public key to publish.trusted_keys."


def _trusts(pipeline: Pipeline, public: PublicKey) -> bool:
    try:
        keyring = keyring_of(pipeline.publish)
    except RetrainerError:  # of another key, which is a file that is not here
        return str(public) in pipeline.publish.trusted_keys
    return keyring is not None and public.key_id in keyring.key_ids()


def _sentences(findings: Iterable[Finding]) -> str:
    """Findings as one text: an API answers with no more."""
    said = (f"{finding.text}{f' ({finding.hint})' if finding.hint else ''}" for finding in findings)
    return ". ".join(text[:1].upper() + text[1:] if not text.startswith("s3://") else text for text in said) + "."
