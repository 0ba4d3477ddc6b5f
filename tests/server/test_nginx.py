"""``docs/nginx.conf`` in front of real servers: what is left to the proxy works with that file.

Runs where an nginx is installed (Debian: ``apt-get install nginx-light``). Only ports, paths and times are changed.
"""

from __future__ import annotations

import functools
import getpass
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import REPOSITORY
from tests.moto_server import free_port
from tests.server.process import ServerProcess, publish
from tests.server.test_stop import PATIENT, Client, clients_of, until

# Debian keeps it where only root looks for commands.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
CONFIGURATION = REPOSITORY / "docs" / "nginx.conf"
POST = b"POST /v1/models/trails:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here (Debian: apt-get install nginx-light)")


def certificate(folder: Path) -> Path:
    """A self-signed one, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "models.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "models.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return folder / "models.crt"


class Nginx:
    """nginx with the documented configuration, in a folder of its own.

    :ivar port: of HTTP; ``tls_port``: of HTTPS.
    """

    def __init__(self, folder: Path, *servers: int, timeout: str = "10s") -> None:
        assert NGINX is not None
        self.folder = folder
        self.port, self.tls_port = free_port(), free_port()
        self.certificate = certificate(folder)
        changes = {
            "/var/log/nginx/error.log": str(folder / "error.log"),
            "/run/nginx.pid": str(folder / "nginx.pid"),
            "/etc/nginx": str(folder),
            "listen 8080": f"listen 127.0.0.1:{self.port}",
            "listen 8443": f"listen 127.0.0.1:{self.tls_port}",
            "server 127.0.0.1:8000;": f"server 127.0.0.1:{servers[0]};",
            "        server 127.0.0.1:8001;\n": "".join(f"server 127.0.0.1:{port};" for port in servers[1:]),
            "header_timeout 10s": f"header_timeout {timeout}",
            "body_timeout 10s": f"body_timeout {timeout}",
            "worker_processes auto;": "worker_processes 1;",
            "access_log off;": "access_log off;"
            + "".join(
                f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
        }
        text = CONFIGURATION.read_text()
        for documented, here in changes.items():
            assert documented in text
            text = text.replace(documented, here)
        (folder / "nginx.conf").write_text(text)
        configured = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        # Its workers are to read the folder of this test.
        self.process = subprocess.Popen([NGINX, *configured, "-g", f"daemon off; user {getpass.getuser()};"])
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def stop(self) -> None:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0


@pytest.fixture(scope="module")
def store(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    publish(folder, bundle, "trails")
    return folder


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One that answers one prediction at a time."""
    started = ServerProcess(
        tmp_path_factory.mktemp("server"), store, "trails", "--max-requests", 1, "--drain-seconds", 0
    )
    try:
        started.wait_until_ready()
        yield started
    finally:
        assert started.stop() == 0


@pytest.fixture(scope="module")
def nginx(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    started = Nginx(tmp_path_factory.mktemp("nginx"), server.port, timeout="1s")
    yield started
    started.stop()


def predict(nginx: Nginx, **headers: str) -> httpx.Response:
    return nginx.http.post("/v1/models/trails:predict", json={"text": "the trail is open"}, headers=headers)


def rest(client: socket.socket) -> bytes:
    """What comes until the connection ends."""
    try:
        with client.makefile("rb") as stream:
            return stream.read()
    except ConnectionError:
        return b""


def test_answers_are_the_servers(nginx: Nginx, server: ServerProcess) -> None:
    assert predict(nginx).json() == server.predict("trails", text="the trail is open").json()
    refused = nginx.http.post("/v1/models/nothing:predict", json={"text": "a"})
    assert (refused.status_code, refused.json()["type"]) == (404, "/docs#not-found")
    assert nginx.http.get("/readyz").json()["ready"] is True


def test_tls(nginx: Nginx) -> None:
    context = ssl.create_default_context(cafile=str(nginx.certificate))
    answer = httpx.post(
        f"https://localhost:{nginx.tls_port}/v1/models/trails:predict", json={"text": "open"}, verify=context
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("sent", [b"POST", POST, POST + b"content-length: 13\r\n\r\n{"])
def test_a_request_that_comes_too_slowly_is_cut_off(nginx: Nginx, sent: bytes) -> None:
    with nginx.connect() as client:
        client.sendall(sent)
        answer = rest(client)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")


def test_slow_clients_take_no_place_of_others(nginx: Nginx) -> None:
    """The server answers one prediction at a time, and does not see those that are not whole."""
    slow = [nginx.connect() for _ in range(5)]
    for client in slow:
        client.sendall(POST + b'content-length: 13\r\n\r\n{"text"')
    assert predict(nginx).status_code == 200
    for client in slow:
        client.sendall(b': "a"}')
        assert client.recv(12) == b"HTTP/1.1 200"
        client.close()


@pytest.mark.parametrize("line", [b"x: " + b"y" * 10_000 + b"\r\n", b"x: y\r\n" * 20_000])
def test_endless_headers_are_refused(nginx: Nginx, line: bytes) -> None:
    with nginx.connect() as client:
        try:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + line * 5)
            answer = rest(client)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


def test_what_is_too_large_is_refused(nginx: Nginx) -> None:
    answer = nginx.http.post("/v1/models/trails:predict", content=b"x" * 5_000_000)
    assert (answer.status_code, answer.json()["type"]) == (413, "/docs#too-large")


def test_a_client_that_offers_http_2(nginx: Nginx) -> None:
    """Java's, for one, offers an upgrade with its first request; its body must not be lost over it."""
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAAAAIAAAABAAMAAABk"}
    assert predict(nginx, **upgrade).status_code == 200


def test_a_client_that_leaves_is_noticed(store: Path, tmp_path: Path) -> None:
    """It is dropped, also by the server behind."""
    server = ServerProcess(tmp_path, store, "trails", "--max-run-tokens", 64, "--drain-seconds", 0, *PATIENT)
    nginx = Nginx(tmp_path, server.port)
    try:
        server.wait_until_ready()
        # Without a space that it could be cut at, this takes seconds to tokenise.
        body = json.dumps({"texts": [".,;:!" * 3200] * 250}).encode()
        clients = [nginx.connect() for _ in range(3)]
        for client in clients:
            client.sendall(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        until(lambda: 'retrainer_queue_rows{model="trails"} 0.0' not in server.http.get("/metrics").text)
        time.sleep(0.3)
        for client in clients:
            client.close()
        until(lambda: 'status="499"} 3.0' in server.http.get("/metrics").text)
        assert predict(nginx).status_code == 200
        assert 'retrainer_queue_rows{model="trails"} 0.0' in server.http.get("/metrics").text
    finally:
        nginx.stop()
        assert server.stop() == 0


def has_more(client: Client, count: int) -> bool:
    return len(client.answers) > count


def test_a_server_is_replaced_and_no_request_is_lost(store: Path, tmp_path: Path) -> None:
    """Of clients that never pause and are told nothing, through both restarts of two servers."""
    servers: dict[int, ServerProcess] = {}

    def started(number: int) -> ServerProcess:
        folder = tmp_path / f"{number}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        port = servers[number].port if number in servers else 0
        server = ServerProcess(folder, store, "trails", "--drain-seconds", 1, "--port", port, *PATIENT)
        server.wait_until_ready()
        return server

    servers.update({number: started(number) for number in (0, 1)})
    nginx = Nginx(tmp_path, servers[0].port, servers[1].port)
    try:
        clients = clients_of(nginx.port, kept=4, fresh=4, obey=False)
        for number in (0, 1):
            assert servers[number].stop() == 0
            counts = [len(client.answers) for client in clients]
            for client, count in zip(clients, counts, strict=True):
                until(functools.partial(has_more, client, count + 5))
            servers[number] = started(number)
            if number == 0:
                time.sleep(11)  # nginx leaves a server alone for 10 s after it failed
        for client in clients:
            client.stopped = True
        for client in clients:
            client.join(30)
        assert [loss for client in clients for loss in client.lost] == []
        assert {status for client in clients for status, _ in client.answers} == {200}
    finally:
        nginx.stop()
        for server in servers.values():
            assert server.stop() == 0
