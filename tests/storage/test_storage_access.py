"""How a bucket is reached: what is said wins, what is not is left to boto3's own chain."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from retrainer.errors import StorageError, StoragePermissionError
from retrainer.storage import S3Access, open_storage, use_access
from retrainer.storage.access import current_access
from retrainer.storage.s3 import S3Storage
from tests.storage.conftest import Relay

TEXT = st.text("abcXYZ019-_", min_size=1, max_size=8)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No word about S3 in the environment; the path of the file of profiles."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    config = tmp_path / "config"
    config.write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return config


def test_keys_and_endpoint_that_are_given(relay: Relay, s3_bucket: str, clean: Path) -> None:
    access = S3Access(
        endpoint_url=relay.url,
        region="eu-central-1",
        access_key_id="AKIDGIVEN",
        secret_access_key="secret",
        session_token="token",
    )
    S3Storage(f"s3://{s3_bucket}", access=access).write("x", b"")
    [seen] = relay.seen
    assert "Credential=AKIDGIVEN/" in seen.headers["Authorization"]
    assert "/eu-central-1/s3/" in seen.headers["Authorization"]
    assert seen.headers["X-Amz-Security-Token"] == "token"
    assert seen.path == f"/{s3_bucket}/x"


def test_a_profile_names_keys_endpoint_and_region(relay: Relay, s3_bucket: str, clean: Path) -> None:
    clean.write_text(
        "[profile models]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = secret\n"
        f"region = eu-west-3\nendpoint_url = {relay.url}\n"
    )
    S3Storage(f"s3://{s3_bucket}", access=S3Access(profile="models")).write("x", b"")
    [seen] = relay.seen
    assert "Credential=AKIDPROFILE/" in seen.headers["Authorization"]
    assert "/eu-west-3/s3/" in seen.headers["Authorization"]
    assert seen.path == f"/{s3_bucket}/x"  # the path: a server that is not Amazon's


def test_a_profile_names_the_style_of_its_endpoint(clean: Path) -> None:
    clean.write_text(
        "[profile models]\naws_access_key_id = a\naws_secret_access_key = b\n"
        "endpoint_url = https://r2.example\ns3 =\n    addressing_style = virtual\n"
    )
    client = S3Storage("s3://bucket", access=S3Access(profile="models"))._client
    assert client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "x"}).startswith(
        "https://bucket.r2.example/x?"
    )


def test_a_profile_that_is_not_there(clean: Path) -> None:
    with pytest.raises(StoragePermissionError, match=r"no credentials for S3.*missing"):
        S3Storage("s3://bucket", access=S3Access(profile="missing")).read("x")


@pytest.mark.parametrize(
    ("access", "url"),
    [
        (S3Access(), "https://bucket.s3.amazonaws.com/x"),
        (S3Access(addressing_style="path"), "https://s3.us-west-2.amazonaws.com/bucket/x"),
        (S3Access(endpoint_url="https://minio.example"), "https://minio.example/bucket/x"),
        (S3Access(endpoint_url="https://r2.example", addressing_style="virtual"), "https://bucket.r2.example/x"),
    ],
)
def test_where_the_bucket_stands_in_the_address(access: S3Access, url: str, clean: Path) -> None:
    access = dataclasses.replace(access, region="us-west-2", access_key_id="a", secret_access_key="b")
    client = S3Storage("s3://bucket", access=access)._client
    signed = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "x"})
    assert signed.partition("?")[0] == url


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine that nobody else vouches for, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + signed.public_bytes(Encoding.PEM))
    return path


def test_the_endpoint_s_certificate_is_checked(
    relay: Relay, s3_bucket: str, clean: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrainer.storage.s3_client._ATTEMPTS", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    relay.socket = context.wrap_socket(relay.socket, server_side=True)
    access = S3Access(
        endpoint_url=relay.url.replace("http:", "https:"), access_key_id="a", secret_access_key="b", region="us-east-1"
    )
    with pytest.raises(StorageError, match=r"(?i)certificate verify failed"):
        S3Storage(f"s3://{s3_bucket}", access=access).write("x", b"")
    trusting = S3Storage(f"s3://{s3_bucket}", access=dataclasses.replace(access, verify=str(certificate)))
    trusting.write("x", b"content")
    assert trusting.read("x") == b"content"
    hasty = S3Storage(f"s3://{s3_bucket}", access=dataclasses.replace(access, verify=str(certificate), timeout=0.5))
    relay.before = lambda exchange: time.sleep(2)
    with pytest.raises(StorageError, match=r"no whole answer within 0\.5 s"):
        hasty.read("x")
    wrong = dataclasses.replace(access, verify=str(certificate.parent / "none"))
    with pytest.raises(StorageError, match="no certificates"):
        S3Storage(f"s3://{s3_bucket}", access=wrong).read("x")


class Tunnels(ThreadingHTTPServer):
    """A proxy that hands on bytes.

    :ivar asked: where to, and the header that says for whom.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.asked: list[tuple[str, str | None]] = []


class _Tunnel(BaseHTTPRequestHandler):
    server: Tunnels

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.path, self.headers["Proxy-Authorization"]))
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as target:
            self.send_response_only(200)
            self.end_headers()
            threading.Thread(target=hand_on, args=(target, self.connection), daemon=True).start()
            hand_on(self.connection, target)


def hand_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def tunnels() -> Iterator[Tunnels]:
    server = Tunnels()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_tunnel_and_the_certificates_that_the_environment_names(
    relay: Relay, s3_bucket: str, certificate: Path, tunnels: Tunnels, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    relay.socket = context.wrap_socket(relay.socket, server_side=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url.replace("http:", "https:"))
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, str(certificate))
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("https_proxy", f"me:hunter2@127.0.0.1:{tunnels.server_port}")
    storage = S3Storage(f"s3://{s3_bucket}")
    storage.write("x", b"content")
    assert storage.read("x") == b"content"
    assert tunnels.asked == [(relay.url.removeprefix("http://"), "Basic bWU6aHVudGVyMg==")]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert S3Storage(f"s3://{s3_bucket}").read("x") == b"content"
    assert len(tunnels.asked) == 1


def test_a_proxy_without_tls_is_asked_for_whole_urls(
    relay: Relay, s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", relay.url.replace("//", "//me:hunter2@"))
    monkeypatch.setattr("retrainer.storage.s3_client._ATTEMPTS", 1)
    access = S3Access(endpoint_url=s3_endpoint)
    storage = S3Storage(f"s3://{s3_bucket}", access=access)
    storage.write("x", b"content")
    assert storage.read("x") == b"content"
    assert {one.path for one in relay.seen} == {f"{s3_endpoint}/{s3_bucket}/x"}
    assert {one.headers["Proxy-Authorization"] for one in relay.seen} == {"Basic bWU6aHVudGVyMg=="}
    relay.shutdown()
    relay.server_close()
    with pytest.raises(StorageError, match=r"proxy URL: .http://\*\*\*:\*\*\*@127") as caught:
        S3Storage(f"s3://{s3_bucket}", access=access).read("x")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert S3Storage(f"s3://{s3_bucket}", access=access).read("x") == b"content"


@pytest.mark.parametrize("endpoint", ["minio:9000", "not a url"])
def test_an_endpoint_that_is_none(endpoint: str, clean: Path) -> None:
    with pytest.raises(StorageError, match="nvalid endpoint") as caught:
        S3Storage("s3://bucket", access=S3Access(endpoint_url=endpoint)).read("x")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"access_key_id": "a"}, "half of a key pair"),
        ({"secret_access_key": "a"}, "half of a key pair"),
        ({"session_token": "a"}, "half of a key pair"),
        ({"sse_kms_key_id": "a"}, "without its encryption"),
        ({"sse": "AES256", "sse_kms_key_id": "a"}, "without its encryption"),
        ({"sse": "AES256", "bucket_key": True}, "without its encryption"),
    ],
)
def test_what_cannot_be_meant(given: dict[str, str], message: str) -> None:
    with pytest.raises(StorageError, match=message):
        S3Access(**given)  # type: ignore[arg-type]


SECRET = st.text("KLMNOP", min_size=4, max_size=8)
KEYS: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}), st.fixed_dictionaries({"access_key_id": SECRET, "secret_access_key": SECRET, "session_token": SECRET})
)
ENCRYPTION: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"sse": "AES256"}),
    st.fixed_dictionaries({"sse": st.sampled_from(["aws:kms", "aws:kms:dsse"]), "sse_kms_key_id": TEXT})
    | st.fixed_dictionaries({"sse": st.just("aws:kms"), "bucket_key": st.booleans()}),
)


@pytest.mark.parametrize("timeout", ["ten", "0", "-1", "nan", "inf"])
def test_a_timeout_is_a_time(timeout: str) -> None:
    with pytest.raises(StorageError, match=r"not a number|a timeout of") as caught:
        S3Access.from_environment({"RETRAINER_S3_TIMEOUT": timeout})
    assert caught.value.where == "RETRAINER_S3_TIMEOUT"


@given(KEYS, ENCRYPTION, st.none() | st.sampled_from(["auto", "path", "virtual"]), st.floats(0.1, 1e6))
def test_what_this_package_hands_to_a_child_it_reads_there(
    keys: dict[str, str], encryption: dict[str, Any], style: str | None, timeout: float
) -> None:
    access = S3Access(**keys, **encryption, addressing_style=style, timeout=timeout)  # type: ignore[arg-type]
    environment = access.to_environment()
    child = S3Access.from_environment(environment)
    assert (
        dataclasses.replace(
            child,
            access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
            secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
            session_token=environment.get("AWS_SESSION_TOKEN"),
        )
        == access
    )
    for secret in keys.values():
        assert secret not in repr(access)


def test_a_child_reaches_the_bucket_in_the_same_way(
    relay: Relay, s3_bucket: str, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
    access = S3Access(
        endpoint_url=relay.url, region="eu-west-1", access_key_id="AKIDCHILD", secret_access_key="s", sse="AES256"
    )
    for name, value in access.to_environment().items():
        monkeypatch.setenv(name, value)
    open_storage(f"s3://{s3_bucket}").write("x", b"")
    [seen] = relay.seen
    assert "Credential=AKIDCHILD/" in seen.headers["Authorization"]
    assert "X-Amz-Security-Token" not in seen.headers
    assert seen.headers["x-amz-server-side-encryption"] == "AES256"


def test_access_around_a_block_reaches_what_is_opened_in_it(
    relay: Relay, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAINER_S3_SSE", "AES256")
    with use_access(S3Access(access_key_id="AKIDAROUND", secret_access_key="s")):
        around = open_storage(f"s3://{s3_bucket}")
        own = open_storage(f"s3://{s3_bucket}", access=S3Access(access_key_id="AKIDOWN", secret_access_key="s"))
    assert current_access().sse == "AES256"
    around.write("x", b"")
    own.write("x", b"")
    names = [seen.headers["Authorization"].partition("Credential=")[2].partition("/")[0] for seen in relay.seen]
    assert names == ["AKIDAROUND", "AKIDOWN"]
    assert "x-amz-server-side-encryption" not in relay.seen[0].headers
