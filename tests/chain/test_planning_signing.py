"""The keys of a pipeline while its steps are planned: what they change, and what they must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import (
    DECIDE,
    EVALUATE,
    EXPORT,
    INGEST,
    PUBLISH,
    SELECT,
    TRAIN,
    StepRef,
    StepRequest,
)
from retrainer.chain.model_store import check_channel, check_keys, model_of, signer_of
from retrainer.errors import PipelineError, UserError
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.store import Signer
from retrainer.store.signing_keys import SIGNING_KEY, KeyPair, load_signer, make_key_pair
from tests.chain.made import CONTEXT, evaluation, in_root, planned, publish_bundle

A, B = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key_pair(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key_pair(tmp_path_factory.mktemp("keys") / "other")


def make_pipeline(folder: Path, **publish: Any) -> Pipeline:
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "config.json").write_text("{}")
    (folder / "rows.csv").write_text("text,label\na,x\nb,y\n")
    content = {
        "name": "trails",
        "dataset": {"train": "rows.csv"},
        "model": {"base": "./base"},
        "publish": {"store": "store", **publish},
    }
    return parse_pipeline(content, where="test", base_folder=folder)


def signing(folder: Path, pair: KeyPair, **publish: Any) -> Pipeline:
    return make_pipeline(folder, sign_with=f"file:{pair.private}", trusted_keys=[str(pair.public)], **publish)


def artifact(folder: Path, step: str, digest: str, **fields: Any) -> StepRef:
    artifacts = Artifacts(folder / "artifacts")
    with artifacts.staging(step, digest) as staging:
        (staging / "file").write_text(digest)
        inputs = {"ingest": A, "train": A, "export": A, "evaluate": A}
        inputs.pop(step, None)
        artifacts.commit(
            staging, step=step, digest=digest, identity={}, inputs=inputs, output={}, created_at="2026-01-01"
        )
    return StepRef(step=step, digest=digest, root=artifacts.root, reused=False, output={}, **fields)


def publish(pipeline: Pipeline, folder: Path, *, signer: Signer | None) -> str:
    return publish_bundle(model_of(pipeline, signer=signer), folder / "version", B)


def requests(pipeline: Pipeline, folder: Path) -> dict[str, StepRequest]:
    """Every request before the publication."""
    snapshot, checkpoint, bundle = (artifact(folder, step, A) for step in ("ingest", "train", "export"))
    scored = evaluation(folder / "artifacts", A, {"ingest": A, "train": A, "export": A})
    second = artifact(folder, "export", B, base="elsewhere")
    requests = {
        "ingest": INGEST.plan(pipeline, context=in_root(snapshot.root)),
        "train": TRAIN.plan(pipeline, snapshot, context=CONTEXT),
        "export": EXPORT.plan(pipeline, checkpoint, context=CONTEXT),
        "select": SELECT.plan(pipeline, bundle, second, context=CONTEXT),
        "evaluate": EVALUATE.plan(pipeline, bundle, context=CONTEXT),
        "decide": DECIDE.plan(pipeline, scored, context=CONTEXT),
    }
    return {step: planned(request) for step, request in requests.items()}


@pytest.mark.parametrize("published", [False, True])
def test_keys_change_no_digest_before_the_publication(published: bool, tmp_path: Path, pair: KeyPair) -> None:
    plain, signed = make_pipeline(tmp_path), signing(tmp_path, pair)
    if published:
        publish(signed, tmp_path, signer=load_signer(f"file:{pair.private}"))
    one, two = (
        {step: request.digest for step, request in requests(pipeline, tmp_path).items()} for pipeline in (plain, signed)
    )
    assert one == two
    decision = artifact(tmp_path, "decide", A)
    first, second = (PUBLISH.plan(pipeline, decision, context=CONTEXT).digest for pipeline in (plain, signed))
    assert first != second  # clearing the task after a key was added publishes again, and signs


def test_the_cause_of_a_publication_is_no_part_of_its_name(tmp_path: Path) -> None:
    pipeline, decision = make_pipeline(tmp_path), artifact(tmp_path, "decide", A)
    by_gate, approved = (
        planned(PUBLISH.plan(pipeline, decision, context=CONTEXT.model_copy(update={"approved": by_a_person})))
        for by_a_person in (False, True)
    )
    assert by_gate.digest == approved.digest
    assert (by_gate.context.approved, approved.context.approved) == (False, True)


def test_what_a_person_has_to_approve_is_not_published_without(tmp_path: Path) -> None:
    pipeline, decision = make_pipeline(tmp_path, approval="required"), artifact(tmp_path, "decide", A)
    with pytest.raises(PipelineError, match="nobody did"):
        PUBLISH.plan(pipeline, decision, context=CONTEXT)
    approved = planned(PUBLISH.plan(pipeline, decision, context=CONTEXT.model_copy(update={"approved": True})))
    assert approved.context.approved


def test_a_channel_that_moved_is_asked_again_in_the_same_run(tmp_path: Path) -> None:
    pipeline, decision = make_pipeline(tmp_path), artifact(tmp_path, "decide", A)
    before = planned(PUBLISH.plan(pipeline, decision, context=CONTEXT))
    assert planned(PUBLISH.plan(pipeline, decision, context=CONTEXT)).digest == before.digest
    publish(pipeline, tmp_path, signer=None)
    assert planned(PUBLISH.plan(pipeline, decision, context=CONTEXT)).digest != before.digest


def test_a_champion_that_nobody_trusted_signed_is_unreadable(tmp_path: Path, pair: KeyPair, other: KeyPair) -> None:
    publish(make_pipeline(tmp_path), tmp_path, signer=None)
    bundle = artifact(tmp_path, "export", A)
    for pipeline in (signing(tmp_path, pair), signing(tmp_path, other)):
        request = EVALUATE.plan(pipeline, bundle, context=CONTEXT)
        assert isinstance(request, StepRequest)
        assert request.identity["champion_state"] == "unreadable"
        assert "not signed" in request.identity["champion_error"]


def test_a_request_names_the_key_and_does_not_hold_it(tmp_path: Path, pair: KeyPair) -> None:
    request = PUBLISH.plan(signing(tmp_path, pair), artifact(tmp_path, "decide", A), context=CONTEXT)
    text = request.to_json().decode()
    assert json.loads(text)["pipeline"]["publish"]["sign_with"] == f"file:{pair.private}"
    assert pair.private.read_text().splitlines()[1] not in text


def test_a_signed_channel_is_not_left_to_a_pipeline_without_a_key(tmp_path: Path, pair: KeyPair) -> None:
    signed, plain = signing(tmp_path, pair), make_pipeline(tmp_path)
    check_channel(plain.publish, model_of(plain).newest_move("production"))
    publish(signed, tmp_path, signer=signer_of(signed.publish))
    newest = model_of(plain).newest_move("production")
    check_channel(signed.publish, newest)
    with pytest.raises(UserError, match="is signed by the key") as caught:
        check_channel(plain.publish, newest)
    assert pair.key.key_id in caught.value.message


def test_keys_that_do_not_fit_are_found_out_early(tmp_path: Path, pair: KeyPair, other: KeyPair) -> None:
    check_keys(make_pipeline(tmp_path).publish)
    check_keys(signing(tmp_path, pair).publish)
    stranger = make_pipeline(tmp_path, sign_with=f"file:{pair.private}", trusted_keys=[str(other.key)])
    with pytest.raises(UserError, match=r"is none of publish\.trusted_keys") as caught:
        check_keys(stranger.publish)
    assert str(pair.key) in str(caught.value.hint)
    for broken in (
        make_pipeline(tmp_path, sign_with="file:nowhere.key"),
        make_pipeline(tmp_path, sign_with=f"file:{pair.public}"),
        make_pipeline(tmp_path, sign_with="env:SURELY_NOT_SET"),
        make_pipeline(tmp_path, sign_with=f"file:{pair.private}", trusted_keys=["nowhere.pub"]),
        make_pipeline(tmp_path, sign_with="airflow:key"),
    ):
        with pytest.raises(UserError):
            check_keys(broken.publish)


def test_a_look_ahead_leaves_the_key_to_the_process_that_signs(
    tmp_path: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, pair.private.read_text())
    publish_section = make_pipeline(tmp_path, sign_with="airflow:key").publish
    for _ in range(2):
        checked = check_keys(publish_section)
        assert checked is not None
        assert checked.public == pair.key
    signer = signer_of(publish_section)  # as the step's process does
    assert signer is not None
    assert signer.public == pair.key
