"""What a model is that is compared: a published version, or a challenger by its decision; and what it was made of.

Light: manifests and small records are read, no predictions. What was removed since is said, and is no error. Not here:
comparing answers (``comparing.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from retrainer.artifacts.evaluation import EvaluationRecord, ModelEvidence, cost_of
from retrainer.artifacts.repository import ArtifactManifest, Artifacts
from retrainer.artifacts.snapshot import SPLITS, SnapshotStatistics
from retrainer.audit.compared import Side
from retrainer.audit.locate import decided_receipt
from retrainer.errors import ArtifactError, IntegrityError, NotFoundError
from retrainer.gate.receipt import Receipt
from retrainer.precisions import REFERENCE
from retrainer.records import FileRecord
from retrainer.report.figures import megabytes
from retrainer.spec.budgets import COSTS
from retrainer.store import Manifest, ModelStore
from retrainer.store.names import is_version

# Of the identity of a training what is said elsewhere, or is no setting.
_ELSEWHERE = {"snapshot", "task", "base", "base_name", "max_length", "step", "step_version"}

_DIGEST = re.compile(r"[0-9a-f]{40,64}")

Read = TypeVar("Read", bound=FileRecord)
Found = TypeVar("Found")
Made = dict[str, dict[str, str]]


def side_of(model: ModelStore, artifacts: Artifacts, name: str) -> Side:
    """What a name stands for.

    :param name: a version, or the digest of a decide artifact.
    :raises NotFoundError: this model has no such version or decision.
    :raises IntegrityError: the version's manifest was altered.
    """
    if is_version(name):
        manifest = model.manifest(name)
        return _side(name, artifacts, manifest.artifacts, manifest=manifest)
    return _challenger(model.name, artifacts, name)


def _challenger(model: str, artifacts: Artifacts, decision: str) -> Side:
    try:
        found = decided_receipt(artifacts, decision)
    except ArtifactError as error:
        hint = "its artifact was removed; name a version"
        raise NotFoundError(f"no decision {decision[:12]}", where=error.where, hint=hint) from None
    receipt = Receipt.from_json(found.data, where=found.where)
    if receipt.model != model:
        raise NotFoundError(f"'{model}' has no decision {decision[:12]}", where=found.where)
    return _side(decision, artifacts, {**receipt.digests, "decide": decision}, receipt=receipt)


def _side(
    name: str,
    artifacts: Artifacts,
    known: Mapping[str, str],
    *,
    manifest: Manifest | None = None,
    receipt: Receipt | None = None,
) -> Side:
    problems: list[str] = []
    digests = dict(known)
    if "evaluate" not in digests and (decided := _found(artifacts, "decide", digests, problems)) is not None:
        digests = {**decided.inputs, **digests}
    evaluation = _record(artifacts, "evaluate", digests, EvaluationRecord, problems)
    if evaluation is not None:
        digests = {**evaluation.digests, **digests}
    training = _found(artifacts, "train", digests, problems)
    if training is not None and "snapshot" in training.identity:
        digests.setdefault("ingest", str(training.identity["snapshot"]))
    snapshot = _record(artifacts, "ingest", digests, SnapshotStatistics, problems)
    said_by = manifest or receipt
    assert said_by is not None
    made: Made = {
        "model": _model(manifest, training, evaluation),
        "training": _settings(training),
        "data": _data(snapshot, digests.get("ingest")),
        "costs": _costs(evaluation, manifest),
        "libraries": dict(sorted(manifest.libraries.items())) if manifest is not None else {},
    }
    return Side(
        name=name,
        published=manifest is not None,
        task=said_by.task,
        labels=said_by.labels,
        artifacts=digests,
        made={kind: facts for kind, facts in made.items() if facts},
        rows=evaluation.rows if evaluation is not None else None,
        precisions=_precisions(manifest, receipt),
        problems=tuple(problems),
    )


def _found(artifacts: Artifacts, step: str, digests: Mapping[str, str], problems: list[str]) -> ArtifactManifest | None:
    """The manifest of one of its artifacts; ``None`` where there is none, and why is added."""
    digest = digests.get(step)
    if digest is None:
        return None

    def find() -> ArtifactManifest:
        found = artifacts.find(step, digest)
        if found is None:
            raise NotFoundError(f"its {step} artifact {digest[:12]} was removed")
        return found

    return _or_problem(find, problems)


def _record(
    artifacts: Artifacts, step: str, digests: Mapping[str, str], kind: type[Read], problems: list[str]
) -> Read | None:
    manifest = _found(artifacts, step, digests, problems)
    if manifest is None:
        return None

    def read() -> Read:
        content = artifacts.read(step, manifest.digest, kind.file)
        return kind.from_json(content, where=f"{step} artifact {manifest.digest[:12]}")

    return _or_problem(read, problems)


def _or_problem(read: Callable[[], Found], problems: list[str]) -> Found | None:
    try:
        return read()
    except (NotFoundError, ArtifactError, IntegrityError) as error:
        problems.append(error.message)
        return None


def _model(
    manifest: Manifest | None, training: ArtifactManifest | None, evaluation: EvaluationRecord | None
) -> dict[str, str]:
    identity = training.identity if training is not None else {}
    if manifest is not None:
        base, revision, length = manifest.base_model, manifest.base_revision, str(manifest.max_length)
    else:
        base, revision, length = (str(identity.get(name, "")) for name in ("base_name", "base", "max_length"))
    facts = {"base model": base, "base revision": _digits(revision), "tokens read": length}
    if manifest is not None:
        facts["commit"] = manifest.git_commit or ""
    facts["graphs"] = ", ".join(
        manifest.precisions if manifest is not None else evaluation.challenger if evaluation is not None else ()
    )
    return {name: value for name, value in facts.items() if value}


def _precisions(manifest: Manifest | None, receipt: Receipt | None) -> tuple[str, ...]:
    if manifest is not None:
        return tuple(manifest.precisions)
    return tuple(name for name, one in receipt.precisions.items() if one.publish) if receipt is not None else ()


def _digits(name: str) -> str:
    """The first digits of a digest; other names as they are."""
    return name[:12] if _DIGEST.fullmatch(name) else name


def _settings(training: ArtifactManifest | None) -> dict[str, str]:
    """The training's arguments, those of sections by ``section.name``."""
    if training is None:
        return {}
    found: dict[str, str] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for below, inner in value.items():
                add(f"{name}.{below}", inner)
        else:
            found[name.removeprefix("training.")] = value if isinstance(value, str) else json.dumps(value)

    for name, value in training.identity.items():
        if name not in _ELSEWHERE:
            add(name, value)
    return found


def _data(snapshot: SnapshotStatistics | None, digest: str | None) -> dict[str, str]:
    facts = {"snapshot": _digits(digest)} if digest is not None else {}
    if snapshot is not None:
        facts |= {f"{split} rows": f"{snapshot.splits[split].rows:,}" for split in SPLITS}
        facts["rows read"] = f"{snapshot.source_rows:,}"
    return facts


def _costs(evaluation: EvaluationRecord | None, manifest: Manifest | None) -> dict[str, str]:
    measured: ModelEvidence | None = evaluation.challenger.get(REFERENCE) if evaluation is not None else None
    facts = {}
    if measured is not None:
        known = {cost: cost_of(measured, name) for name, cost in COSTS.items()}
        facts = {cost.words: cost.amount(value) for cost, value in known.items() if value is not None}
    if manifest is not None:
        facts["size of all files"] = megabytes(manifest.size)
    return facts
