"""The keys of a pipeline: named, never written; public ones checked; paths relative to the file."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, json_schema, load_pipeline, parse_pipeline

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
BODY = PEM.splitlines()[1]
PUBLIC = "ed25519:" + base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
OTHER = "ed25519:" + base64.b64encode(bytes(32)).decode()


def content(**publish: Any) -> dict[str, Any]:
    return {
        "name": "news",
        "dataset": {"train": "rows.csv"},
        "model": {"base": "some/model"},
        "publish": {"store": "store", **publish},
    }


def parse(**publish: Any) -> Pipeline:
    return parse_pipeline(content(**publish), base_folder="/project")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("file:release.key", "file:/project/release.key"),
        ("file:../keys/release.key", "file:/keys/release.key"),
        ("file:/etc/release.key", "file:/etc/release.key"),
        ("file:///etc/release.key", "file:/etc/release.key"),
        ("env:RELEASE_KEY", "env:RELEASE_KEY"),
        ("airflow:release-key.v2", "airflow:release-key.v2"),
    ],
)
def test_places_of_a_private_key(written: str, read: str) -> None:
    publish = parse(sign_with=written).publish
    assert publish.sign_with == read
    assert parse(sign_with=read).publish == publish


def test_public_keys_and_their_files() -> None:
    publish = parse(sign_with="env:KEY", trusted_keys=[PUBLIC, "keys/old.pub", "file:///etc/a.pub"]).publish
    assert publish.trusted_keys == (PUBLIC, "/project/keys/old.pub", "/etc/a.pub")
    assert parse(sign_with="env:KEY", trusted_keys=PUBLIC).publish.trusted_keys == (PUBLIC,)


@pytest.mark.parametrize(
    "source", ["", "key", "file:", "env:", "env:A B", "env:1A", "airflow:", "airflow:a b", "aws:x"]
)
def test_what_names_no_key(source: str) -> None:
    with pytest.raises(PipelineError, match=r"publish\.sign_with"):
        parse(sign_with=source)


@pytest.mark.parametrize("prefix", ["", "env:", "airflow:", "file:"])
@pytest.mark.parametrize(
    "key", [PEM, PEM.replace("\n", "\\n"), BODY, PEM.replace("\n", "")], ids=["pem", "escaped", "body", "one line"]
)
def test_a_key_in_the_file_is_refused_and_never_shown(prefix: str, key: str, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(json.dumps(content(sign_with=prefix + key, channel="NOT A NAME")))  # JSON is YAML
    with pytest.raises(PipelineError, match="looks like a key itself") as caught:
        load_pipeline(file)
    assert BODY[:16] not in str(caught.value)


@given(raw=st.binary(min_size=32, max_size=48), prefix=st.sampled_from(["", "env:", "airflow:", "key:"]))
def test_no_secret_of_any_kind_is_quoted(raw: bytes, prefix: str) -> None:
    for secret in (base64.b64encode(raw).decode(), raw.hex()):
        with pytest.raises(PipelineError) as caught:
            parse(sign_with=prefix + secret)
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([PEM], "this is a private key"),
        ([BODY], "this is a private key"),
        ([KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()], "write the key as"),
        (["ed25519:AAAA"], "is not an Ed25519 public key"),
        (["ed25519:?"], "is not an Ed25519 public key"),
        ([PUBLIC, PUBLIC], "list each key only once"),
        ([""], "must not be empty"),
        ([7], "expected text, found 7"),
    ],
)
def test_what_is_no_public_key(keys: list[Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        parse(sign_with="env:KEY", trusted_keys=keys)
    assert BODY[:20] not in str(caught.value)


def test_trust_without_a_signature_makes_no_sense() -> None:
    with pytest.raises(PipelineError, match="what is published unsigned would not be trusted"):
        parse(trusted_keys=[OTHER])


def test_the_schema_offers_both() -> None:
    properties = json_schema()["properties"]["publish"]["properties"]
    assert {"sign_with", "trusted_keys"} <= properties.keys()
    assert "Never the key itself" in properties["sign_with"]["description"]
