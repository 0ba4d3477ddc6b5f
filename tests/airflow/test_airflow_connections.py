"""What Airflow's connections say about buckets and keys, read by Airflow itself from its environment variables."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from retrainer.airflow import failures
from retrainer.airflow.connections import s3_access, signer, signing_key, step_environment
from retrainer.airflow.operate import _params
from retrainer.airflow.settings import Settings
from retrainer.errors import (
    ArtifactError,
    ChampionChanged,
    DataError,
    IntegrityError,
    NotFoundError,
    PipelineError,
    ResourceError,
    RetrainerError,
    SignatureError,
    StepKilled,
    StorageError,
    StoragePermissionError,
    UserError,
)
from retrainer.spec.publish import Publish
from retrainer.storage import open_storage
from retrainer.storage.access import S3Access
from retrainer.store.causes import Cause
from retrainer.store.signing_keys import KeyPair, make_key_pair
from tests.airflow.harness import REPOSITORY, airflow_environment

Connect = Callable[..., str]
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"
WITH_AMAZON = importlib.util.find_spec("airflow.providers.amazon") is not None


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Make a connection; its id."""

    def make(conn_type: str = "aws", **fields: Any) -> str:
        monkeypatch.setenv("AIRFLOW_CONN_TESTED", json.dumps({"conn_type": conn_type, **fields}))
        return "tested"

    return make


def test_none_leaves_it_to_boto3() -> None:
    assert s3_access(None) is s3_access("") is None
    assert step_environment(None) == {}


def test_everything_that_the_amazon_provider_documents(connect: Connect) -> None:
    access = s3_access(
        connect(
            login="AKIAEXAMPLE",
            password=SECRET,
            extra={
                "aws_session_token": "a token",
                "region_name": "eu-central-1",
                "endpoint_url": "https://everything.example.com",
                "verify": "/etc/ca.pem",
                "config_kwargs": {"s3": {"addressing_style": "virtual"}, "retries": {"mode": "standard"}},
                "service_config": {
                    "s3": {
                        "endpoint_url": "https://s3.example.com",
                        "bucket_name": "used by S3Hook",
                        "extra_args": {
                            "ServerSideEncryption": "aws:kms",
                            "SSEKMSKeyId": "alias/models",
                            "BucketKeyEnabled": True,
                        },
                    }
                },
            },
        )
    )
    assert access == S3Access(
        endpoint_url="https://s3.example.com",
        region="eu-central-1",
        access_key_id="AKIAEXAMPLE",
        secret_access_key=SECRET,
        session_token="a token",
        verify="/etc/ca.pem",
        addressing_style="virtual",
        sse="aws:kms",
        sse_kms_key_id="alias/models",
        bucket_key=True,
    )
    assert SECRET not in repr(access)
    # The child understands the same.
    environment = step_environment(access)
    child = S3Access.from_environment(environment)
    assert (child.sse, child.sse_kms_key_id, child.bucket_key, child.addressing_style) == (
        "aws:kms",
        "alias/models",
        True,
        "virtual",
    )
    assert environment["AWS_SECRET_ACCESS_KEY"] == SECRET


@pytest.mark.parametrize("conn_type", ["aws", "s3", "generic"])
def test_keys_in_the_extra_and_one_endpoint_for_all(connect: Connect, conn_type: str) -> None:
    extra = {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRET, "endpoint_url": "http://minio:9000"}
    access = s3_access(connect(conn_type, extra=extra))
    assert access == S3Access(endpoint_url="http://minio:9000", access_key_id="AKIA", secret_access_key=SECRET)


def test_an_empty_connection_is_the_workers_own_role(connect: Connect) -> None:
    assert s3_access(connect()) == S3Access()


def test_what_the_connection_leaves_open_the_workers_variables_say(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAINER_S3_SSE", "AES256")
    monkeypatch.setenv("RETRAINER_S3_ADDRESSING_STYLE", "virtual")
    assert s3_access(connect()) == S3Access(sse="AES256", addressing_style="virtual")
    extra = {
        "config_kwargs": {"s3": {"addressing_style": "path"}},
        "service_config": {"s3": {"extra_args": {"ServerSideEncryption": "aws:kms"}}},
    }
    assert s3_access(connect(extra=extra)) == S3Access(sse="aws:kms", addressing_style="path")


def test_the_environment_of_the_worker_does_not_mix_with_the_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Asked of boto3 itself, in a process that has both."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.setenv(name, "of-the-worker")
    (tmp_path / "credentials").write_text(
        "[models]\naws_access_key_id=of-the-profile\naws_secret_access_key=of-the-profile\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    keys = s3_access(connect(login="AKIA", password=SECRET))
    profile = s3_access(connect(extra={"profile_name": "models"}))
    assert credentials_under(step_environment(keys)) == ["AKIA", SECRET, None]
    assert credentials_under(step_environment(profile)) == ["of-the-profile", "of-the-profile", None]


def credentials_under(environment: dict[str, str]) -> list[str | None]:
    program = (
        "import boto3, json\nfound = boto3.session.Session().get_credentials().get_frozen_credentials()\n"
        "print(json.dumps([found.access_key, found.secret_key, found.token or None]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str | None] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conn_type": "postgres"}, "is of type 'postgres'"),
        ({"login": "AKIA"}, "one of login and password alone"),
        ({"password": SECRET}, "one of login and password alone"),
        ({"extra": {"verify": False}}, "turns off the check of the server's certificate"),
        ({"extra": {"service_config": "s3"}}, "no JSON object"),
        ({"extra": {"config_kwargs": {"s3": {"addressing_style": "odd"}}}}, "addressing_style is none of auto, path"),
        ({"extra": {"service_config": {"s3": {"extra_args": {"ACL": "public-read"}}}}}, "extra_args has ACL"),
        (
            {"extra": {"service_config": {"s3": {"extra_args": {"ServerSideEncryption": "AES512"}}}}},
            "ServerSideEncryption is none of AES256, aws:kms",
        ),
        (
            {"extra": {"service_config": {"s3": {"extra_args": {"SSEKMSKeyId": "key"}}}}},
            "names a key of KMS without encryption by KMS",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(connect: Connect, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        s3_access(connect(**fields))
    assert SECRET not in str(caught.value)
    assert failures.is_permanent(caught.value)


def test_a_connection_that_is_not_there_may_be_there_later() -> None:
    with pytest.raises(ResourceError, match="no connection 'nowhere'") as caught:
        s3_access("nowhere")
    assert not failures.is_permanent(caught.value)


ROLE = {"role_arn": "arn:aws:iam::123456789012:role/models", "region_name": "us-east-1"}


@pytest.mark.skipif(WITH_AMAZON, reason="the amazon provider is installed")
def test_a_role_needs_the_amazon_provider(connect: Connect) -> None:
    with pytest.raises(ResourceError, match="not installed") as caught:
        s3_access(connect(login="AKIA", password=SECRET, extra=ROLE))
    assert "apache-airflow-providers-amazon" in str(caught.value.hint)


@pytest.mark.skipif(not WITH_AMAZON, reason="the amazon provider is not installed")
def test_the_amazon_provider_assumes_the_role(connect: Connect, s3_endpoint: str) -> None:
    services = {"sts": {"endpoint_url": s3_endpoint}, "s3": {"endpoint_url": s3_endpoint}}
    access = s3_access(connect(login="AKIA", password=SECRET, extra={**ROLE, "service_config": services}))
    assert access is not None
    assert access.session_token
    assert access.access_key_id not in {None, "AKIA"}
    assert access.profile is None


def test_the_setting_is_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAINER_AWS_CONN_ID", raising=False)
    monkeypatch.setenv("AIRFLOW__RETRAINER__AWS_CONN_ID", "from_config")
    assert Settings().resolved().aws_conn_id == "from_config"
    monkeypatch.setenv("RETRAINER_AWS_CONN_ID", "from_environment")
    assert Settings().resolved().aws_conn_id == "from_environment"
    assert Settings(aws_conn_id="given").resolved().aws_conn_id == "given"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key_pair(tmp_path_factory.mktemp("keys") / "release")


@pytest.mark.parametrize("breaks", ["\n", "\\n", "", " "])
def test_a_connections_password_is_the_key_however_a_form_broke_its_lines(
    connect: Connect, pair: KeyPair, breaks: str
) -> None:
    conn_id = connect("generic", password=pair.private.read_text().replace("\n", breaks))
    publish = Publish(store="/store", sign_with=f"airflow:{conn_id}", trusted_keys=(str(pair.key),))
    found = signer(publish)
    assert found is not None
    assert found.public == pair.key


def test_a_password_that_is_no_key_is_not_shown(connect: Connect, pair: KeyPair) -> None:
    conn_id = connect("generic", password=SECRET)
    with pytest.raises(UserError, match="private key") as caught:
        signer(Publish(store="/store", sign_with=f"airflow:{conn_id}"))
    assert SECRET not in str(caught.value)
    assert failures.is_permanent(caught.value)
    with pytest.raises(PipelineError, match="has no password"):
        signer(Publish(store="/store", sign_with=f"airflow:{connect('generic')}"))
    assert signing_key(Publish(store="/store", sign_with=f"file:{pair.private}")) is None
    assert signing_key(Publish(store="/store")) is None


def test_the_key_is_masked_line_by_line(connect: Connect, pair: KeyPair, tmp_path: Path) -> None:
    """In Airflow's own log of tasks, in a process of its own: masks stay for the life of one."""
    secret_line = pair.private.read_text().splitlines()[1]
    program = (
        "from airflow.sdk.log import redact\n"
        "from retrainer.airflow.connections import s3_access, signing_key\n"
        "from retrainer.spec.publish import Publish\n"
        "s3_access('bucket'); signing_key(Publish(store='/s', sign_with='airflow:key'))\n"
        f"print(redact('shown {{}} and {{}} and {{}}'.format({SECRET!r}, 'the-session-token', {secret_line!r})))"
    )
    bucket = {
        "conn_type": "aws",
        "login": "AKIA",
        "password": SECRET,
        "extra": {"aws_session_token": "the-session-token"},
    }
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=airflow_environment(
            tmp_path,
            AIRFLOW_CONN_BUCKET=json.dumps(bucket),
            AIRFLOW_CONN_KEY=json.dumps({"conn_type": "generic", "password": pair.private.read_text()}),
        ),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.splitlines()[-1] == "shown *** and *** and ***"


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (PipelineError("x"), True),
        (DataError("x"), True),
        (UserError("there is no private key"), True),
        (NotFoundError("x"), True),
        (StoragePermissionError("access denied"), True),
        (SignatureError("x"), True),
        (IntegrityError("x"), True),
        (ChampionChanged("x"), True),
        (StorageError("cannot reach the server"), False),
        (ResourceError("the disk is full"), False),
        (ArtifactError("x"), False),
        (StepKilled("x"), False),
    ],
)
def test_which_errors_are_tried_again(error: RetrainerError, permanent: bool) -> None:
    raised = failures.as_airflow(error)
    assert isinstance(raised, AirflowException)
    assert isinstance(raised, AirflowFailException) is permanent


def test_missing_credentials_are_final_and_a_dead_server_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """What boto3 really raises for both."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    logging.getLogger("botocore").setLevel(logging.ERROR)
    nowhere = S3Access(endpoint_url="http://127.0.0.1:9", region="us-east-1")
    with pytest.raises(StorageError, match="no credentials") as missing:
        open_storage("s3://bucket", access=nowhere).read("key")
    assert failures.is_permanent(missing.value)
    unreachable = S3Access(
        endpoint_url="http://127.0.0.1:9", region="us-east-1", access_key_id="a", secret_access_key="b"
    )
    with pytest.raises(StorageError, match="cannot reach") as dead:
        open_storage("s3://bucket", access=unreachable).read("key")
    assert not failures.is_permanent(dead.value)


def test_people_give_every_cause_but_that_of_the_gate() -> None:
    form = _params(["news"])["cause"]
    assert set(form.schema["enum"]) == set(form.schema["values_display"]) == set(Cause) - {"gate"}
    assert form.value == Cause.UNSPECIFIED
