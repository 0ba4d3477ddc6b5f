"""``retrainer verify`` on decide artifacts, run folders, published versions: what holds, and every way it may not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from retrainer.artifacts.evaluation import (
    ChampionEvidence,
    EvaluationRecord,
    ModelEvidence,
    ParityEvidence,
    PredictionsFile,
)
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.standing import Standing
from retrainer.chain import DECIDE, EVALUATE, RunContext, StepRef, StepRequest
from retrainer.chain.accounts import close_account
from retrainer.chain.model_store import model_of
from retrainer.chain.steps.evaluate import TEST_ROWS
from retrainer.cli import app
from retrainer.errors import RetrainerError
from retrainer.gate.decide import decide
from retrainer.gate.evidence import load_evidence
from retrainer.gate.verify import receipt_bytes
from retrainer.records import digest_of
from retrainer.spec.model import Pipeline
from retrainer.store import FileEntry, Manifest, Store
from retrainer.store.bundle import PrecisionEntry
from retrainer.store.entry import Verdict
from retrainer.store.ledger import RowSet
from retrainer.store.signing_keys import make_key_pair
from tests.chain.made import evaluated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Cli, Published

DOES_NOT_HOLD = 4
ROWS = 600
LABELS = ("closed", "open")
UPSTREAM = {"ingest": "1" * 64, "train": "2" * 64, "export": "3" * 64}
WHEN = "2026-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Decided:
    """An evaluate and a decide artifact under one root."""

    root: Path
    evaluation: Path
    receipt: Path
    digest: str

    def document(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.receipt.read_text())
        return loaded

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the receipt, and write it as the gate would."""
        document = self.document()
        change(document)
        self.receipt.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def predictions(folder: Path, name: str, wrong: int, *, seed: int = 3) -> tuple[PredictionsFile, float]:
    """A file of predictions of which so many are wrong, and their accuracy."""
    labels = np.arange(ROWS) % 2
    answers = labels.copy()
    answers[np.random.default_rng(seed).permutation(ROWS)[:wrong]] ^= 1
    scores = np.where(answers[:, None] == np.arange(2), 0.9, 0.1)
    path = folder / "predictions" / f"{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    columns = {
        "row_id": [f"{row:016x}" for row in range(ROWS)],
        "label": labels,
        "prediction": answers,
        "scores": pa.array(scores.tolist(), type=pa.list_(pa.float64())),
    }
    pq.write_table(pa.table(columns), path)
    written = PredictionsFile(file=f"predictions/{name}.parquet", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    return written, float((answers == labels).mean())


def decided(root: Path | str, work: Path, *, wrong: int = 20, floor: float = 0.8) -> str:
    """Commit an evaluation and its decision as the steps do; the digest of the decision."""
    artifacts = Artifacts(root)
    work.mkdir(parents=True, exist_ok=True)
    identity = EVALUATE.identity({"bundle": UPSTREAM["export"]})
    digest = digest_of(identity)
    rows = RowSet(b"".join(row.to_bytes(8, "big") for row in range(ROWS)))
    with artifacts.staging("evaluate", digest) as staging:
        models = {name: predictions(staging, name, count) for name, count in (("fp32", wrong), ("champion", 30))}
        evidence = {
            name: ModelEvidence(metrics={"accuracy": accuracy}, predictions=file)
            for name, (file, accuracy) in models.items()
        }
        record = EvaluationRecord(
            model="status",
            task="text-classification",
            labels=LABELS,
            digests={**UPSTREAM, "evaluate": digest},
            rows=ROWS,
            challenger={"fp32": evidence["fp32"]},
            champion_state="present",
            champion=ChampionEvidence(
                **evidence["champion"].model_dump(), version="0123456789abcdef", labels=LABELS, precision="fp32"
            ),
            parity={"fp32": ParityEvidence(max_difference=1e-5, tolerance=1e-4, rows=256)},
        )
        (staging / "evaluation.json").write_text(record.to_pretty_json())
        (staging / TEST_ROWS).write_bytes(rows.data)
        champion = record.champion.version if record.champion else None
        output = evaluated(rows, champion_state="present", champion_version=champion, anchor_version=champion)
        commit(artifacts, staging, "evaluate", digest, identity, UPSTREAM, output.model_dump(mode="json"))
    pipeline = Pipeline.model_validate(
        {
            "name": "status",
            "dataset": {"train": "a.csv"},
            "model": {"base": "a-base"},
            "metrics": ["accuracy"],
            "gate": {"floors": {"accuracy": floor}},
            "publish": {"store": str(work / "store")},
        }
    )
    reference = StepRef(
        step="evaluate", digest=digest, root=str(root), reused=False, output=output.model_dump(mode="json")
    )
    context = RunContext(root="/artifacts", run_id="test", actor="tester", started_at=WHEN)
    request = DECIDE.plan(pipeline, reference, context=context)
    assert isinstance(request, StepRequest)
    with artifacts.staging("decide", request.digest) as staging:
        standing = Standing.from_content(request.identity["standing"], where="request")
        receipt = decide(pipeline.gate, load_evidence(artifacts.fetch("evaluate", digest), standing))
        (staging / "receipt.json").write_bytes(receipt_bytes(receipt))
        commit(artifacts, staging, "decide", request.digest, request.identity, {**UPSTREAM, "evaluate": digest})
    close_account(
        model_of(pipeline).ledger,
        standing,
        lambda spent: Verdict(
            channel="production",
            spent=spent,
            decision=request.digest,
            receipt=hashlib.sha256(receipt_bytes(receipt)).hexdigest(),
            verdict=receipt.verdict,
            reasons=receipt.codes,
        ),
        context,
    )
    return request.digest


def commit(
    artifacts: Artifacts,
    staging: Path,
    step: str,
    digest: str,
    identity: dict[str, Any],
    inputs: dict[str, str],
    output: dict[str, Any] | None = None,
) -> None:
    artifacts.commit(
        staging, step=step, digest=digest, identity=identity, inputs=inputs, output=output or {}, created_at=WHEN
    )


def folders(root: Path, digest: str) -> Decided:
    receipt = root / "decide" / digest / "receipt.json"
    evaluation = root / "evaluate" / json.loads(receipt.read_text())["digests"]["evaluate"]
    return Decided(root, evaluation, receipt, digest)


@pytest.fixture
def promoted(tmp_path: Path) -> Decided:
    return folders(tmp_path / "artifacts", decided(tmp_path / "artifacts", tmp_path / "work"))


@pytest.fixture
def refused(tmp_path: Path) -> Decided:
    return folders(tmp_path / "artifacts", decided(tmp_path / "artifacts", tmp_path / "work", wrong=200, floor=0.9))


def problems(*arguments: object) -> str:
    """What the command complains about a receipt that does not hold; in this process, which is quicker."""
    answer = CliRunner().invoke(app, ["verify", *map(str, arguments), "--json"])
    assert answer.exit_code == DOES_NOT_HOLD, answer.output
    assert json.loads(answer.stdout)["holds"] is False
    return "\n".join(json.loads(answer.stdout)["problems"])


def holds(*arguments: object) -> str:
    """What the command says of a receipt that holds; in this process."""
    answer = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def fails(*arguments: object) -> str:
    """The error that keeps the command from checking; in this process."""
    answer = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    assert isinstance(answer.exception, RetrainerError), answer.output
    return str(answer.exception)


def test_a_promotion_holds(cli: Cli, promoted: Decided) -> None:
    answer = cli("verify", promoted.receipt)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    size = promoted.receipt.stat().st_size
    assert answer.stdout.splitlines()[-1] == f"identical, {size:,} bytes: the receipt holds"
    for words in ("promote, the same again", promoted.digest, "fp32 predictions", "champion predictions", "600 rows"):
        assert words in answer.stdout


def test_a_refusal_holds_too(cli: Cli, refused: Decided) -> None:
    answer = cli("verify", refused.receipt, "--json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    said = json.loads(answer.stdout)
    assert said["verdict"] == {"receipt": "refuse", "recomputed": "refuse"}
    assert (said["holds"], said["identical"], said["bytes"]) == (True, True, refused.receipt.stat().st_size)
    assert said["predictions"]["fp32"]["rows"] == ROWS


@pytest.mark.parametrize("name", ["receipt", "its folder", "a run folder", "a URL"])
def test_wherever_it_is_pointed_at(promoted: Decided, name: str) -> None:
    run = promoted.root / "runs" / "2026-01-01_status"
    run.mkdir(parents=True)
    (run / "decide").symlink_to(Path("../../decide") / promoted.digest)
    places = {
        "receipt": run / "decide" / "receipt.json",
        "its folder": promoted.receipt.parent,
        "a run folder": run,
        "a URL": promoted.receipt.as_uri(),
    }
    assert "the receipt holds" in holds(places[name])


def test_the_ledger_bears_it_out(promoted: Decided, refused: Decided, tmp_path: Path) -> None:
    for one in (promoted, refused):
        said = holds(one.receipt, "--ledger", tmp_path / "work" / "store")
        assert "not checked" not in said
    assert "--ledger STORE holds it against the ledger" in holds(promoted.receipt)


def cut(ledger: Path) -> None:
    for path in sorted(ledger.iterdir())[1:]:
        path.unlink()


def cut_verdict(ledger: Path) -> None:
    sorted(ledger.iterdir())[-1].unlink()


def in_entry(number: int, before: str, after: str) -> Callable[[Path], None]:
    def change(ledger: Path) -> None:
        path = ledger / f"{number:010d}.json"
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))

    return change


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (shutil.rmtree, "decision not in the ledger: its end was cut off"),
        (cut, "decision not in the ledger: its end was cut off"),
        (cut_verdict, "verdict not in the ledger: its end was cut off"),
        (in_entry(1, '"row_count": 600', '"row_count": 900'), "ledger altered: .*does not continue the one before it"),
        (in_entry(3, '"promote"', '"refuse"'), "ledger altered: verdict is 'refuse' in entry 3, and 'promote'"),
        (in_entry(3, '"receipt": "', '"receipt": "0'), "ledger altered: .*not a valid Entry"),
    ],
)
def test_a_ledger_that_was_tampered_with(
    promoted: Decided, tmp_path: Path, act: Callable[[Path], None], words: str
) -> None:
    act(tmp_path / "work" / "store" / "status" / "decisions")
    assert re.search(words, problems(promoted.receipt, "--ledger", tmp_path / "work" / "store"))


def test_counts_of_earlier_decisions_edited_in_the_receipt(promoted: Decided, tmp_path: Path) -> None:
    promoted.edit(lambda document: document["standing"].update(decisions=3))
    said = problems(promoted.receipt, "--ledger", tmp_path / "work" / "store")
    assert "decision not in the ledger" in said
    assert "counts edited: standing.decisions is 3" in said  # the decision's own digest tells, too


def test_an_edited_verdict(cli: Cli, refused: Decided) -> None:
    refused.edit(lambda document: document.update(verdict="promote", reasons=[]))
    said = problems(refused.receipt)
    assert "verdict edited: the receipt says promote, the evidence gives refuse (floor_missed" in said
    assert "policy edited" not in said
    shown = cli("verify", refused.receipt).stdout
    assert shown.splitlines()[-1] == "the receipt does not hold"
    assert "reasons[0]\t(absent)\t" in shown


def test_policy_and_verdict_edited_so_that_they_agree(cli: Cli, refused: Decided) -> None:
    """The recomputed receipt is the same, byte for byte: only the digest gives it away."""
    from retrainer.spec.gate import Gate

    policy = Gate.model_validate({"floors": {"accuracy": 0.1}, "against_champion": None})
    refused.receipt.write_bytes(receipt_bytes(decide(policy, load_evidence(refused.evaluation))))
    assert refused.document()["verdict"] == "promote"
    answer = cli("verify", refused.receipt, "--json")
    assert answer.returncode == DOES_NOT_HOLD
    said = json.loads(answer.stdout)
    assert said["identical"] is True
    assert "policy edited: policy.floors.accuracy is 0.1 in the receipt" in "\n".join(said["problems"])
    # Also where the manifest was made to agree: then it no longer gives the name of its folder.
    manifest = refused.receipt.parent / "manifest.json"
    document = json.loads(manifest.read_text())
    document["identity"]["gate"] = json.loads(policy.to_json())
    document["files"]["receipt.json"]["sha256"] = hashlib.sha256(refused.receipt.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(document))
    assert "manifest edited" in problems(refused.receipt)


def test_another_figure_and_other_white_space(promoted: Decided) -> None:
    original = promoted.receipt.read_bytes()
    promoted.edit(lambda document: document["metrics"]["fp32"]["accuracy"].update(value=0.99))
    assert "content differs: metrics.fp32.accuracy.value is 0.99, recomputed 0.96" in problems(promoted.receipt)
    promoted.receipt.write_bytes(original.rstrip())
    assert "bytes differ: the receipt has the same content" in problems(promoted.receipt)


def test_changed_predictions(cli: Cli, promoted: Decided) -> None:
    predictions(promoted.evaluation, "fp32", 21)
    answer = cli("verify", promoted.receipt)
    assert answer.returncode == DOES_NOT_HOLD, answer.stdout + answer.stderr
    assert "\npredictions changed: " in answer.stdout
    said = problems(promoted.receipt)
    assert said.startswith("predictions changed: predictions/fp32.parquet has sha256")
    assert "verdict differs: the receipt says promote, the evidence gives refuse (predictions_changed" in said
    assert "verdict edited" not in said


def test_predictions_and_evaluation_changed_so_that_they_agree(promoted: Decided) -> None:
    """With every hash in the evaluate artifact made to fit, the receipt still names the predictions it is of."""
    file, accuracy = predictions(promoted.evaluation, "fp32", 19)
    path = promoted.evaluation / "evaluation.json"
    record = json.loads(path.read_text())
    record["challenger"]["fp32"].update(predictions=file.model_dump(), metrics={"accuracy": accuracy})
    path.write_text(json.dumps(record))
    said = problems(promoted.receipt)
    assert "evaluation changed: evaluation.json" in said
    manifest = promoted.evaluation / "manifest.json"
    document = json.loads(manifest.read_text())
    for name in ("evaluation.json", "predictions/fp32.parquet"):
        document["files"][name]["sha256"] = hashlib.sha256((promoted.evaluation / name).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(document))
    said = problems(promoted.receipt)
    assert said.startswith("predictions changed: the receipt was taken from a file of fp32")


def test_evidence_of_another_evaluation(promoted: Decided) -> None:
    manifest = promoted.evaluation / "manifest.json"
    document = json.loads(manifest.read_text())
    document["identity"]["bundle"] = "9" * 64
    document["digest"] = digest_of(document["identity"])
    manifest.write_text(json.dumps(document))
    assert "evidence exchanged" in problems(promoted.receipt, "--evaluation", promoted.evaluation)


def test_missing_evidence(cli: Cli, promoted: Decided, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    loose = tmp_path / "receipt.json"
    shutil.copy(promoted.receipt, loose)
    one_clear_error(cli("verify", loose), "evidence missing", "--artifacts")
    assert "evidence missing: no evaluation.json" in fails(loose, "--evaluation", tmp_path)
    (promoted.evaluation / "predictions" / "champion.parquet").unlink()
    assert "evidence missing: predictions/champion.parquet" in fails(promoted.receipt)
    shutil.rmtree(promoted.evaluation)
    assert f"evidence missing: no evaluate artifact {promoted.evaluation.name[:12]}" in fails(promoted.receipt)
    assert "there is no receipt" in fails(tmp_path / "nowhere")


def test_what_is_no_receipt(promoted: Decided) -> None:
    promoted.receipt.write_text("{}")
    assert "not a valid Receipt" in fails(promoted.receipt)


def test_a_loose_receipt_says_that_nothing_holds_its_policy(promoted: Decided, tmp_path: Path) -> None:
    loose = tmp_path / "elsewhere" / "receipt.json"
    loose.parent.mkdir()
    shutil.copy(promoted.receipt, loose)
    assert "the policy is taken as the receipt states it" in holds(loose, "--artifacts", promoted.root)
    ledger = ("--ledger", tmp_path / "work" / "store")
    given = holds(loose, "--evaluation", promoted.evaluation, "--decision", promoted.digest, *ledger)
    assert "not checked" not in given
    assert "policy edited" in problems(loose, "--artifacts", promoted.root, "--decision", "7" * 64)


def publish(promoted: Decided, store: Path, tmp_path: Path) -> str:
    """A version that holds the receipt and a graph, as the publish step makes it."""
    folder = tmp_path / "version"
    folder.mkdir()
    shutil.copy(promoted.receipt, folder / "receipt.json")
    (folder / "model.onnx").write_bytes(b"graph")
    files = {
        path.name: FileEntry(size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    }
    manifest = Manifest(
        model="status",
        task="text-classification",
        labels=LABELS,
        max_length=32,
        precisions={"fp32": PrecisionEntry(file="model.onnx", weight_types={"float32": 1})},
        files=files,
        metrics={},
        base_model="a-base",
        base_revision="1",
        artifacts={**promoted.document()["digests"], "decide": promoted.digest},
        libraries={},
        git_commit=None,
    )
    model = Store.open(store).model("status")
    model.publish(folder, manifest, channel="production", actor="tester", reason="a test", decision=None, expected=None)
    return manifest.version


def test_a_published_version(promoted: Decided, tmp_path: Path) -> None:
    store = tmp_path / "work" / "store"
    version = publish(promoted, store, tmp_path)
    folder = store / "status" / "versions" / version
    ways: list[tuple[object, ...]] = [
        ("--store", store, "--model", "status"),
        ("--store", store, "--model", "status", "--version", version),
        (folder / "receipt.json",),
        (folder,),
    ]
    for way in ways:
        assert f"the manifest of version {version}" in holds(*way, "--artifacts", promoted.root)
    # The folder fetched elsewhere, with its manifest.
    shutil.copytree(folder, tmp_path / "fetched")
    assert "the receipt holds" in holds(tmp_path / "fetched" / "receipt.json", "--artifacts", promoted.root)
    assert "evidence missing" in fails(*ways[0])
    public = make_key_pair(tmp_path / "key").public
    for way in ways[:2]:
        refused = CliRunner().invoke(app, ["verify", *map(str, way), "--public-key", str(public)])
        assert refused.exit_code == 1, refused.output
        assert "sign" in str(refused.output) + str(refused.exception)
    receipt = Decided(promoted.root, promoted.evaluation, folder / "receipt.json", promoted.digest)
    receipt.edit(lambda document: document["policy"]["floors"].update(accuracy=0.1))
    assert "policy edited" in problems(*ways[0], "--artifacts", promoted.root)


def test_in_a_bucket(cli: Cli, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"s3://{s3_bucket}/artifacts"
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    digest = decided(root, tmp_path / "work")
    upload = Artifacts(root).get("decide", digest).upload
    for place in (f"{root}/decide/{digest}/receipt.json", f"{root}/decide/{digest}/{upload}/receipt.json"):
        answer = cli("verify", place, RETRAINER_CACHE=str(tmp_path / "another-cache"))
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_real_run(cli: Cli, published: Published) -> None:
    answer = cli("verify", published.run)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    artifacts = published.folder / ".retrainer" / "artifacts"
    answer = cli("verify", "--store", published.store, "--model", "tiny-status", "--artifacts", artifacts)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a", "--store", "b", "--model", "c"),
        ("--store", "b"),
        ("a", "--artifacts", "b", "--evaluation", "c"),
        ("a", "--public-key", "b"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ["verify", *arguments]).exit_code == 2


def test_without_the_libraries(promoted: Decided, tmp_path: Path) -> None:
    """An interpreter that finds no scipy says what to install."""
    program = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'scipy' else found(name, *rest)\n"
        "from retrainer.cli import main\n"
        f"sys.argv = ['retrainer', 'verify', {str(promoted.receipt)!r}]\n"
        "main()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False
    )
    assert answer.returncode == 1
    assert "scipy not installed" in answer.stderr
    assert "airflow-retrainer[train]" in answer.stderr
