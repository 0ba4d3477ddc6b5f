"""A real Airflow with a bucket and a signing key that only its connections know: used everywhere, left nowhere.

Data, artifacts and store lie in one bucket, whose server checks every signature. Nothing in Airflow's environment says
where it is or how it is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet

from demo.airflow_server import AirflowServer
from demo.rest_client import RestClient
from retrainer.errors import SignatureError
from retrainer.storage import open_storage
from retrainer.store import Keyring, ModelStore, Store
from retrainer.store.signing_keys import KeyPair, make_key_pair
from tests.airflow.guarded_bucket import GuardedBucket, Watch, files_with, guarded_bucket
from tests.airflow.harness import REPOSITORY, Project, small_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "guarded"
DAG_FILE = """
import os
from pathlib import Path
from retrainer.airflow import build_dags, operate_dag, retrain_dag
folder = os.environ["RETRAINER_PIPELINES"]
common = {"default_args": {"retries": 2, "retry_delay": 0.1}}
settings = {"artifact_root": "s3://models/artifacts", "aws_conn_id": "bucket"}
globals().update(build_dags(folder, settings=settings, **common))
operate = operate_dag(folder, settings=settings)
file = next(Path(folder).glob("*.yaml"))
refused = retrain_dag(file, dag_id="refused", settings={**settings, "aws_conn_id": "wrong_key"}, **common)
"""


@dataclass(frozen=True)
class Running:
    """Airflow with the pipeline, and what only its connections know.

    :ivar pem: the line of the private key that is secret.
    :ivar temporary: where the steps' requests lie while they run.
    """

    server: AirflowServer
    client: RestClient
    project: Project
    bucket: GuardedBucket
    pair: KeyPair
    pem: str = field(repr=False)
    temporary: Path

    def until_ended(self, dag_id: str, run_id: str, seconds: float = 400.0) -> dict[str, str | None]:
        ended = {"success", "failed"}
        self.server.wait_for(
            lambda: self.client.run_state(dag_id, run_id) in ended, f"the run of {dag_id}", seconds=seconds
        )
        return {task.task_id: task.state for task in self.client.tasks(dag_id, run_id)}

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        return "\n".join(line.text for line in self.client.log(dag_id, run_id, task_id, try_number))

    def model(self, *, trusting: KeyPair) -> ModelStore:
        keys = Keyring.of(trusting.public)
        return Store.open("s3://models/store", trusted=keys, access=self.bucket.access).model(NAME)

    def secrets(self) -> tuple[str, str]:
        return self.bucket.secret_access_key, self.pem


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("secrets")
    (root / "keys").mkdir()
    pair = make_key_pair(root / "keys" / "release")
    with guarded_bucket() as bucket, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        project = small_project(root, tiny_bert, NAME)
        data = open_storage("s3://models/data", access=bucket.access)
        for file in ("train.csv", "test.csv"):
            data.upload(root / "data" / file, file)
        project.write(
            dataset__train="s3://models/data/train.csv",
            dataset__test="s3://models/data/test.csv",
            training__num_train_epochs=1,
            publish={
                "store": "s3://models/store",
                "sign_with": "airflow:release_key",
                "trusted_keys": [str(pair.key)],
            },
        )
        dags, temporary = root / "dags", root / "tmp"
        dags.mkdir()
        temporary.mkdir()
        (dags / "guarded_test.py").write_text(DAG_FILE)
        environment = {
            "RETRAINER_PIPELINES": str(project.pipeline_file.parent),
            "RETRAINER_CACHE": str(root / "cache"),
            "TMPDIR": str(temporary),
            "AWS_EC2_METADATA_DISABLED": "true",
            # So that not even the table of connections holds a secret as it is, and the whole database can be searched.
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
        }
        server = AirflowServer(root / "home", dags, plugins=REPOSITORY / "plugins", environment=environment)
        with server:
            client = server.client()
            pem = pair.private.read_text()
            connect(client, server, "bucket", bucket.connection())
            connect(client, server, "wrong_key", bucket.connection("not-the-secret-of-anybody"))
            connect(client, server, "release_key", {"conn_type": "generic", "password": pem})
            client.ensure_pool("gpu_pool", 1)
            for dag_id in (project.dag_id, "refused", "operate_models"):
                server.wait_for(lambda dag_id=dag_id: client.has_dag(dag_id), dag_id, seconds=90)  # type: ignore[misc]
                client.unpause(dag_id)
            assert client.import_errors() == []
            yield Running(server, client, project, bucket, pair, pem.splitlines()[1], temporary)


def connect(client: RestClient, server: AirflowServer, conn_id: str, fields: dict[str, str]) -> None:
    """Make a connection over Airflow's API, as its form does."""
    token = httpx.post(f"{client.url}/auth/token", json={"username": "admin", "password": server.password}, timeout=30)
    answer = httpx.post(
        f"{client.url}/api/v2/connections",
        json={"connection_id": conn_id, **fields},
        headers={"Authorization": f"Bearer {token.json()['access_token']}"},
        timeout=30,
    )
    assert answer.status_code == httpx.codes.CREATED, answer.text


@pytest.mark.long
def test_connections_open_the_bucket_and_sign_and_are_seen_nowhere(running: Running) -> None:
    client, project = running.client, running.project
    with Watch(*running.secrets(), temporary=running.temporary) as watched:
        run_id = client.trigger(project.dag_id)
        refused = client.trigger("refused")
        states = running.until_ended(project.dag_id, run_id)
        refused_states = running.until_ended("refused", refused)

    failed = next((task for task, state in states.items() if state != "success"), None)
    assert failed is None, running.log(project.dag_id, run_id, str(failed))
    steps = {"ingest", "train", "export", "evaluate", "decide", "publish"}
    assert (steps <= watched.commands, steps <= watched.requests) == (True, True)
    assert watched.found == set()

    links = client.links(project.dag_id, run_id, "publish")
    assert links.keys() == {"Run folder", "Published version"}
    assert str(links["Run folder"]).startswith("http")
    assert str(links["Published version"]).startswith("/plugin/models/")

    # What was published is signed, and only that key's owner could have signed it.
    model = running.model(trusting=running.pair)
    newest, champion = model.newest_move("production"), model.champion("production")
    assert newest is not None
    assert champion is not None
    summary = client.xcom(project.dag_id, run_id, "publish")["output"]
    assert (summary["version"], summary["signed_by"]) == (newest.to_version, running.pair.key.key_id)
    assert summary["sent_bytes"] == sum(entry.size for entry in champion.files.values())
    assert model.history("production")[0].cause == "gate"
    (running.project.folder / "other").mkdir()
    stranger = make_key_pair(running.project.folder / "other" / "key")
    with pytest.raises(SignatureError):
        running.model(trusting=stranger).champion("production")

    # A person moves another channel to it; the move is signed too, and says why in a word.
    move = client.trigger(
        "operate_models",
        {
            "pipeline": NAME,
            "action": "promote",
            "channel": "partners",
            "from_channel": "production",
            "cause": "release",
            "reason": "they asked for it",
        },
    )
    moved = running.until_ended("operate_models", move)
    assert moved == {"move_channel": "success"}, running.log("operate_models", move, "move_channel")
    partners = model.newest_move("partners")
    assert partners is not None
    assert partners.to_version == newest.to_version
    assert model.history("partners")[0].cause == "release"

    # Wrong keys: no second try, though two were allowed.
    tries = {task.task_id: (task.state, task.try_number) for task in client.tasks("refused", refused)}
    assert tries["ingest"] == ("failed", 1), refused_states
    assert files_with("the secret key is wrong", running.server.home / "logs" / "dag_id=refused")

    # Everything that was written, by anybody: logs, database, caches, run folders, what is left of requests.
    folders = (running.server.home, running.project.folder / "cache", running.temporary)
    for secret in running.secrets():
        assert files_with(secret, *folders) == []
    # The search finds what is there.
    found = files_with(newest.to_version, *folders)
    assert any(path.name.startswith("airflow.db") for path in found)
    assert any(path.is_relative_to(running.server.home / "logs") for path in found)
    whole = open_storage("s3://models", access=running.bucket.access)
    objects = {entry.key: whole.read(entry.key) for entry in whole.list()}
    assert any(key.startswith("artifacts/runs/") and key.endswith("run.json") for key in objects)
    for secret in running.secrets():
        assert [key for key, data in objects.items() if secret.encode() in data] == []
