"""What the requests of steps say about the champion: the same bundle is nothing to do, a withdrawn one is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import (
    DECIDE,
    EVALUATE,
    EXPORT,
    INGEST,
    PUBLISH,
    StepRef,
    StepRequest,
    Unchanged,
)
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.store import ModelStore, Store
from tests.chain.made import CONTEXT, evaluation, in_root, planned, publish_bundle

A, B = "a" * 64, "b" * 64


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return make_pipeline(tmp_path)


def make_pipeline(folder: Path, **changes: object) -> Pipeline:
    content = {
        "name": "trails",
        "dataset": {"train": "rows.csv"},
        "model": {"base": "somewhere"},
        "publish": {"store": str(folder / "store")},
        **changes,
    }
    return parse_pipeline(content, where="test", base_folder=folder)


@pytest.fixture
def model(pipeline: Pipeline) -> ModelStore:
    return Store.open(pipeline.publish.store).model("trails")


def bundle(root: Path, digest: str) -> StepRef:
    """A completed export artifact of that digest."""
    artifacts = Artifacts(root / "artifacts")
    with artifacts.staging("export", digest) as staging:
        (staging / "bundle.json").write_text("{}")
        artifacts.commit(
            staging,
            step="export",
            digest=digest,
            identity={},
            inputs={"ingest": "1" * 64, "train": "2" * 64},
            output={},
            created_at="2026-01-01T00:00:00+00:00",
        )
    return StepRef(step="export", digest=digest, root=artifacts.root, reused=False, output={})


def publish(model: ModelStore, root: Path, digest: str, *, expected: str | None) -> str:
    return publish_bundle(model, root / f"version-{digest[:4]}", digest, expected=expected)


def evaluation_of(pipeline: Pipeline, ref: StepRef) -> StepRequest:
    return planned(EVALUATE.plan(pipeline, ref, context=CONTEXT))


def test_the_first_model_has_no_champion(pipeline: Pipeline, tmp_path: Path) -> None:
    request = evaluation_of(pipeline, bundle(tmp_path, A))
    assert (request.identity["champion"], request.identity["champion_state"]) == (None, "none")
    assert request.inputs == {"ingest": "1" * 64, "train": "2" * 64, "export": A}


def test_what_is_live_already_is_nothing_to_do(pipeline: Pipeline, model: ModelStore, tmp_path: Path) -> None:
    version = publish(model, tmp_path, A, expected=None)
    ref = EVALUATE.plan(pipeline, bundle(tmp_path, A), context=CONTEXT)
    assert isinstance(ref, StepRef)
    assert ref.unchanged == Unchanged(version=version, channel="production", metrics={"accuracy": 0.9})
    decision = DECIDE.plan(pipeline, ref, context=CONTEXT)
    assert isinstance(decision, StepRef)
    assert (decision.step, decision.unchanged) == ("decide", ref.unchanged)


def test_another_champion_is_another_evaluation(pipeline: Pipeline, model: ModelStore, tmp_path: Path) -> None:
    before = evaluation_of(pipeline, bundle(tmp_path, B))
    version = publish(model, tmp_path, A, expected=None)
    after = evaluation_of(pipeline, bundle(tmp_path, B))
    assert after.identity["champion"] == version
    assert after.digest != before.digest


def test_a_bundle_that_was_rolled_back_is_known(pipeline: Pipeline, model: ModelStore, tmp_path: Path) -> None:
    first = publish(model, tmp_path, A, expected=None)
    second = publish(model, tmp_path, B, expected=first)
    model.rollback("production", to=None, actor="tester", reason="complaints")
    assert evaluation_of(pipeline, bundle(tmp_path, B)).identity["withdrawn"] is True
    # Somebody put it back by hand: the newest word counts.
    model.promote("production", version=second, actor="tester", reason="it was the data")
    model.promote("production", version=first, actor="tester", reason="a planned change")
    assert evaluation_of(pipeline, bundle(tmp_path, B)).identity["withdrawn"] is False


def test_a_damaged_champion_is_not_taken_for_none(pipeline: Pipeline, model: ModelStore, tmp_path: Path) -> None:
    version = publish(model, tmp_path, A, expected=None)
    manifest = tmp_path / "store" / "trails" / "versions" / version / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0.9", "1.0"))
    request = evaluation_of(pipeline, bundle(tmp_path, B))
    assert request.identity["champion_state"] == "unreadable"
    assert request.identity["champion_error"]


def test_an_evaluation_is_of_one_model_and_what_comes_before_it_of_any(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    checkpoint = StepRef(step="train", digest=B, root=str(tmp_path / "artifacts"), reused=False, output={})
    artifacts = Artifacts(checkpoint.root)
    with artifacts.staging("train", B) as staging:
        artifacts.commit(
            staging, step="train", digest=B, identity={}, inputs={"ingest": A}, output={}, created_at="2026-01-01"
        )
    here = make_pipeline(tmp_path)
    renamed = make_pipeline(tmp_path, name="paths")
    elsewhere = make_pipeline(tmp_path, publish={"store": str(tmp_path / "other"), "channel": "staging"})
    data = [planned(INGEST.plan(one, context=in_root(tmp_path))).digest for one in (here, renamed, elsewhere)]
    bundles = [planned(EXPORT.plan(one, checkpoint, context=CONTEXT)).digest for one in (here, renamed, elsewhere)]
    assert (len(set(data)), len(set(bundles))) == (1, 1)
    evaluations = [evaluation_of(one, bundle(tmp_path, A)).digest for one in (here, renamed, elsewhere)]
    assert evaluations[0] == evaluations[2]
    assert evaluations[0] != evaluations[1]


def test_a_gate_that_changed_decides_again(tmp_path: Path) -> None:
    scored = evaluation(tmp_path / "artifacts", A, {"ingest": A, "train": A, "export": A})
    pipelines = [make_pipeline(tmp_path, gate={"floors": {"accuracy": floor}}) for floor in (0.8, 0.9, 0.9)]
    digests = {planned(DECIDE.plan(one, scored, context=CONTEXT)).digest for one in pipelines}
    assert len(digests) == 2


def test_location_of_data_is_not_its_identity(tmp_path: Path) -> None:
    digests = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").write_text("text,label\na,x\nb,y\n")
        digests.add(INGEST.plan(make_pipeline(tmp_path / name), context=in_root(tmp_path)).digest)
    assert len(digests) == 1
    (tmp_path / "here" / "rows.csv").write_text("text,label\na,x\nc,y\n")
    digests.add(INGEST.plan(make_pipeline(tmp_path / "here"), context=in_root(tmp_path)).digest)
    assert len(digests) == 2


def test_publishing_is_asked_for_in_every_run(pipeline: Pipeline, tmp_path: Path) -> None:
    decision = bundle(tmp_path, A)
    first, second = (
        PUBLISH.plan(pipeline, decision, context=CONTEXT.model_copy(update={"run_id": run})).digest for run in "12"
    )
    assert first != second
