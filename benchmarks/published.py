"""What the benchmarks of the store publish, and the server that they publish to.

The server is moto, in this process. Each request is handled on its own there, so that its conditional writes are one
step, as they are in S3. Its listings look at every key of the bucket, which S3's do not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

from retrainer.records import sha256_file
from retrainer.store import FileEntry, Manifest, ModelStore, PrecisionEntry, Published

CHANNEL = "production"
MODEL = "news"
FILES = ("config.json", "tokenizer.json", "onnx/model.onnx")
GRAPH = b"weights that no training run changed" * 100


@dataclass
class Server:
    """S3 behind HTTP.

    :ivar requests: how many were answered.
    """

    requests: int = 0

    def bucket(self, name: str) -> str:
        """A new bucket; its address."""
        _backend().create_bucket(name, "us-east-1")
        return f"s3://{name}"

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Put an object past HTTP."""
        _backend().put_object(bucket, key, data)


def _backend() -> Any:
    return s3_backends["123456789012"]["aws"]


@contextmanager
def server() -> Iterator[Server]:
    """A server without buckets; the AWS environment points at it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    found = Server()
    application = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def counted(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with one_at_a_time:
            found.requests += 1
            return list(application(environment, start))

    http = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{http.port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield found
    finally:
        http.shutdown()
        s3_backends.reset()


def make_bundle(folder: Path, name: str) -> tuple[Path, Manifest]:
    """A small bundle: two files of its own, and a graph that all have in common."""
    for file in FILES:
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(GRAPH if file.endswith(".onnx") else f"{file} of {name}".encode())
    entries = {
        file: FileEntry(size=(folder / name / file).stat().st_size, sha256=sha256_file(folder / name / file))
        for file in FILES
    }
    return folder / name, make_manifest(name, entries)


def make_manifest(name: str, files: dict[str, FileEntry]) -> Manifest:
    """The manifest of a bundle of that name."""
    return Manifest(
        model=MODEL,
        task="text-classification",
        labels=("World", "Sports"),
        max_length=128,
        precisions={"fp32": PrecisionEntry(file="onnx/model.onnx", weight_types={"FLOAT": 3})},
        files=files,
        metrics={"accuracy": 0.9},
        base_model="minilm",
        base_revision="abc",
        artifacts={"export": hashlib.sha256(name.encode()).hexdigest()},
        libraries={"python": "3.11"},
        git_commit=None,
    )


def publish(model: ModelStore, bundle: tuple[Path, Manifest], expected: str | None) -> Published:
    """Publish over a champion."""
    folder, manifest = bundle
    return model.publish(
        folder, manifest, channel=CHANNEL, actor="ada", reason="benchmark", decision=None, expected=expected
    )
