"""The types of connections in Airflow's form, and what its test button says: asked of Airflow's own API server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retrainer.airflow.connections import s3_access, signer
from retrainer.airflow.deployment_checks import COMPONENTS
from retrainer.spec.publish import Publish
from retrainer.storage import S3Access, open_storage
from retrainer.store.signing_keys import KeyPair, make_key_pair
from tests.airflow.guarded_bucket import GuardedBucket, guarded_bucket
from tests.airflow.harness import HERE, Project, airflow_environment, small_project

# Starts an API server for some questions about forms.
pytestmark = pytest.mark.long

SECRET = "not-the-secret-of-anybody"
READ_ONLY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}],
}


def store(access: S3Access, address: str, **more: str) -> dict[str, str]:
    """What a person fills in."""
    return {
        "conn_type": "retrainer_store",
        "login": str(access.access_key_id),
        "password": str(access.secret_access_key),
        "extra": json.dumps(
            {"address": address, "endpoint_url": access.endpoint_url, "region_name": "us-east-1", **more}
        ),
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key_pair(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def bucket() -> Any:
    with guarded_bucket() as opened:
        yield opened


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory,
    airflow_home: Path,
    tiny_bert: Path,
    bucket: GuardedBucket,
    rclone: tuple[S3Access, Path],
    pair: KeyPair,
) -> dict[str, Any]:
    """What the program of this name found, of all connections at once: the API server takes seconds to start."""
    folder = tmp_path_factory.mktemp("forms")
    project: Project = small_project(folder, tiny_bert, "signed")
    publish = {"store": "s3://models", "sign_with": "airflow:release_key", "trusted_keys": [str(pair.key)]}
    project.write(publish=publish)
    other = small_project(folder, tiny_bert, "other")
    other.write()
    key = {"conn_type": "retrainer_signing_key"}
    closed = S3Access(endpoint_url="http://127.0.0.1:9", access_key_id="a", secret_access_key=SECRET)
    with guarded_bucket(READ_ONLY) as read_only:
        questions = {
            "good": store(bucket.access, "s3://models/production"),
            "wrong_secret": {**store(bucket.access, "s3://models"), "password": SECRET},
            "no_bucket": store(bucket.access, "s3://nowhere"),
            "read_only": store(read_only.access, "s3://models"),
            "careless": store(rclone[0], "s3://models/production"),
            "nobody": store(closed, "s3://models"),
            "no_address": store(bucket.access, ""),
            "folder": {"conn_type": "retrainer_store", "extra": json.dumps({"address": str(folder / "data")})},
            "key": {**key, "password": pair.private.read_text()},
            "bare_key": {**key, "password": pair.private.read_text().splitlines()[1]},
            "stranger": {**key, "password": make_key_pair(folder / "stranger").private.read_text()},
            "no_key": {**key, "password": SECRET},
            "empty_key": key,
        }
        (folder / "questions.json").write_text(json.dumps(questions))
        finished = subprocess.run(
            [sys.executable, str(HERE / "connections_program.py"), folder / "questions.json", folder / "answer.json"],
            env=airflow_environment(
                airflow_home,
                RETRAINER_PIPELINES=str(project.pipeline_file.parent),
                AIRFLOW__CORE__TEST_CONNECTION="Enabled",
                RETRAINER_S3_TIMEOUT="3",
                _AIRFLOW_PROCESS_CONTEXT="server",
            ),
            cwd=airflow_home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    output = finished.stdout + finished.stderr
    assert (folder / "answer.json").exists(), output
    found: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return {**found, "output": output}


def test_the_forms_come_from_the_description_alone(answers: dict[str, Any]) -> None:
    """So the API server loads no hook to draw them, and nothing heavy."""
    form = answers["forms"]["retrainer_store"]
    assert form["hook_name"] == "Retrainer store"
    fields = form["standard_fields"]
    assert [fields[name]["hidden"] for name in ("host", "port", "url_schema")] == [True] * 3
    assert fields["password"]["title"] == "Secret access key"
    extra = form["extra_fields"]
    assert list(extra) == [
        *("address", "endpoint_url", "region_name", "aws_session_token", "profile_name", "role_arn", "verify")
    ]
    assert extra["aws_session_token"]["schema"]["format"] == "password"
    key = answers["forms"]["retrainer_signing_key"]
    assert key["standard_fields"]["password"]["title"] == "Private key"
    assert key["standard_fields"]["login"]["hidden"]
    assert answers["loaded"] == []


@pytest.mark.parametrize(
    ("name", "works", "said"),
    [
        ("good", True, "refuses a conditional write that must fail"),
        ("wrong_secret", False, "the secret key is wrong (check AWS_SECRET_ACCESS_KEY)"),
        ("no_bucket", False, "there is no such bucket"),
        ("read_only", False, "access denied (the credentials need s3:PutObject"),
        ("careless", False, "ignores conditional writes (If-None-Match)"),
        ("nobody", False, "cannot reach the server"),
        ("no_address", False, "has no address"),
        ("folder", True, "can be read and written, with locks"),
        ("no_key", False, "not a private key (make a pair with 'retrainer keygen')"),
        ("empty_key", False, "has no password"),
        ("stranger", True, "No pipeline in "),
    ],
)
def test_the_button_says_what_is_wrong(answers: dict[str, Any], name: str, works: bool, said: str) -> None:
    answer = answers["tests"][name]
    assert (answer["status"], said in answer["message"]) == (works, True), answer


@pytest.mark.parametrize("name", ["key", "bare_key"])
def test_a_key_is_named_with_who_trusts_it(answers: dict[str, Any], pair: KeyPair, name: str) -> None:
    answer = answers["tests"][name]
    assert answer == {
        "status": True,
        "message": f"Key {pair.key.key_id}, public key {pair.key}. Trusted by signed.",
    }


def test_no_secret_is_said_and_no_object_stays(
    answers: dict[str, Any], bucket: GuardedBucket, rclone: tuple[S3Access, Path], pair: KeyPair
) -> None:
    secrets = (bucket.secret_access_key, SECRET, pair.private.read_text().splitlines()[1])
    for text in (json.dumps(answers["tests"]), answers["output"]):
        assert not [secret for secret in secrets if secret in text]
    assert not list(open_storage("s3://models", access=bucket.access).list())
    assert not list(open_storage("s3://models/production", access=rclone[0]).list())


def test_what_everybody_is_told_of_airflows_health(answers: dict[str, Any]) -> None:
    """``retrainer doctor`` reads it, and that the console refuses strangers."""
    assert set(COMPONENTS) == set(answers["health"])
    for name in set(COMPONENTS) - {"metadatabase"}:
        assert set(answers["health"][name]) == {"status", f"latest_{name}_heartbeat"}
    assert answers["health"]["metadatabase"] == {"status": "healthy"}
    assert answers["console"] in {401, 403}


def test_tasks_read_such_connections(monkeypatch: pytest.MonkeyPatch, bucket: GuardedBucket, pair: KeyPair) -> None:
    """The same setting, ``aws_conn_id``, takes either type."""
    monkeypatch.setenv("AIRFLOW_CONN_MODELS", json.dumps(store(bucket.access, "s3://models")))
    assert s3_access("models") == bucket.access
    key = {"conn_type": "retrainer_signing_key", "password": pair.private.read_text()}
    monkeypatch.setenv("AIRFLOW_CONN_RELEASE", json.dumps(key))
    found = signer(Publish(store="/store", sign_with="airflow:release"))
    assert found is not None
    assert found.public == pair.key
