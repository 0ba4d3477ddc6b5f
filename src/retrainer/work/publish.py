"""The publish step: put the promoted bundle, its receipt, model card and plots into the store, and move the channel."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import Published, StepRequest
from retrainer.chain.model_store import loading_code, model_of, signer_of
from retrainer.chain.summaries import figures_in
from retrainer.errors import GateError
from retrainer.gate.evidence import load_evidence
from retrainer.gate.receipt import Receipt
from retrainer.precisions import REFERENCE
from retrainer.records import sha256_file
from retrainer.report.model_card import model_card
from retrainer.store import Cause, FileEntry, Manifest
from retrainer.store.bundle import BundleInfo
from retrainer.tasks import TASKS
from retrainer.work.card import card_facts
from retrainer.work.portable import make_portable
from retrainer.work.reporter import Reporter

LIBRARIES = (
    "airflow-retrainer",
    "torch",
    "transformers",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "numpy",
    "scikit-learn",
)
# By whose versions texts are scored.
SCORING_TEXT = ("sacrebleu", "regex")
# Where a deployment says which commit of its own repository the pipeline came from.
COMMIT_VARIABLES = ("RETRAINER_GIT_COMMIT", "GITHUB_SHA", "CI_COMMIT_SHA")


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> Published:
    """Publish, and fill ``folder`` with ``published.json``.

    :raises GateError: the receipt does not promote. The operators never get here then; somebody else might.
    :raises ChampionChanged: the channel moved since the decision.
    :raises UserError: the key that the pipeline signs with cannot be loaded.
    """
    pipeline = request.pipeline
    receipt = Receipt.from_json(
        (inputs["decide"] / "receipt.json").read_bytes(), where=str(inputs["decide"] / "receipt.json")
    )
    if not receipt.promoted:
        codes = ", ".join(reason.code for reason in receipt.reasons)
        raise GateError(f"the challenger was refused: {codes}", where=pipeline.name, hint="nothing was published")
    signer = signer_of(pipeline.publish)
    model = model_of(pipeline, signer=signer)
    cause = Cause.APPROVAL if request.context.approved else Cause.GATE
    version_folder = folder.parent / f"{folder.name}-version"
    try:
        _assemble(version_folder, inputs, receipt, include_checkpoint=pipeline.publish.include_checkpoint)
        (version_folder / "README.md").write_text(_model_card(request, inputs, receipt), encoding="utf-8")
        manifest = _manifest(request, inputs, receipt, version_folder)
        reporter.log(f"publishing version {manifest.version} to {pipeline.publish.store}")
        published = model.publish(
            version_folder,
            manifest,
            channel=pipeline.publish.channel,
            actor=request.context.actor,
            cause=cause,
            reason="; ".join([f"{cause.meaning}, in run {request.context.run_id}", *_asked(request)]),
            decision=request.inputs["decide"],
            expected=receipt.champion_version,
            anchor=receipt.anchor_moves,
            held_against=receipt.anchor.version if receipt.anchor is not None else None,
            scores=figures_in(receipt.metrics.get(REFERENCE, {})),
        )
    finally:
        shutil.rmtree(version_folder, ignore_errors=True)
    (folder / "published.json").write_bytes(manifest.to_json())
    return Published(
        version=published.version,
        channel=published.channel,
        moved=published.moved,
        previous=published.previous,
        sequence=published.sequence,
        store=pipeline.publish.store,
        model=pipeline.name,
        precisions=receipt.publishable,
        metrics=manifest.metrics,
        decision=request.inputs["decide"],
        move=published.move,
        sent_bytes=published.sent_bytes,
        copied_bytes=published.copied_bytes,
        signed_by=signer.public.key_id if signer else None,
    )


def _asked(request: StepRequest) -> list[str]:
    """What people said to the run: the history of the channel keeps it."""
    context = request.context
    return [*([f"approved because: {context.answer}"] if context.answer else []), *context.changes.lines()]


def _assemble(target: Path, inputs: dict[str, Path], receipt: Receipt, *, include_checkpoint: bool) -> None:
    """The folder of the version: the bundle without the graphs that the gate held back, and its papers."""
    bundle = inputs["export"] / "bundle"
    shutil.copytree(bundle, target)
    info = BundleInfo.load(bundle)
    withheld = [name for name in info.precisions if name not in receipt.publishable]
    for name in withheld:
        for graph in info.precisions[name].files:
            for path in (target / graph).parent.glob(f"{Path(graph).name}*"):
                path.unlink()
    if withheld:
        kept = {name: entry for name, entry in info.precisions.items() if name not in withheld}
        info.model_copy(update={"precisions": kept}).save(target)
    shutil.copy(inputs["decide"] / "receipt.json", target / "receipt.json")
    shutil.copy(inputs["decide"] / "report.html", target / "report.html")
    for plot in sorted(inputs["evaluate"].glob("*.png")):
        shutil.copy(plot, target / plot.name)
    if include_checkpoint:
        checkpoint = shutil.copytree(inputs["train"] / "checkpoint", target / "checkpoint")
        for name in ("config.json", "tokenizer_config.json"):
            make_portable(checkpoint / name)


def _model_card(request: StepRequest, inputs: dict[str, Path], receipt: Receipt) -> str:
    facts = card_facts(request, inputs, load_evidence(inputs["evaluate"]), receipt)
    return model_card(receipt, facts, loading=loading_code(request.pipeline))


def _manifest(request: StepRequest, inputs: dict[str, Path], receipt: Receipt, target: Path) -> Manifest:
    info = BundleInfo.load(target)
    scores = receipt.metrics.get(REFERENCE, {})
    return Manifest(
        model=request.pipeline.name,
        task=info.task,
        labels=info.labels,
        max_length=info.max_length,
        precisions=info.precisions,
        files={
            path.relative_to(target).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
            for path in sorted(target.rglob("*"))
            if path.is_file()
        },
        metrics={name: score.value for name, score in scores.items() if score.value is not None},
        base_model=request.pipeline.model.base,
        base_revision=TrainingRecord.load(inputs["train"]).base_fingerprint,
        artifacts=dict(request.inputs),
        libraries=_libraries(SCORING_TEXT if TASKS[info.task].writes == "text" else ()),
        git_commit=_git_commit(),
    )


def _libraries(more: tuple[str, ...]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (*LIBRARIES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """The commit that the pipeline came from: told by the deployment, else that of the working directory."""
    for variable in COMMIT_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip()
