"""``training.blend_with_champion``: what is blended, by how much, where it cannot be, and what is left of the rows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import Blend, TrainingRecord, TriedShare
from retrainer.chain import INGEST, TRAIN, StepRef
from retrainer.errors import IntegrityError
from retrainer.records import sha256_file
from retrainer.run.pipeline_run import RunResult, new_context, run_pipeline
from retrainer.run.processes import run_step
from retrainer.spec import Pipeline
from retrainer.spec.known_metrics import names_of
from retrainer.store import FileEntry, Manifest, Store
from retrainer.work.snapshot_texts import BLENDED_WITH, TRAIN_ROWS, pack_row_ids, row_ids_of
from retrainer.work.train.blending import SHARES, WHOLE, choose, tried_shares
from tests.chain.made import CONTEXT, in_root, planned
from tests.training.conftest import MakePipeline, ignore, train_here

WEAK = {"num_train_epochs": 1, "learning_rate": 2e-4}
BLEND = {"blend_with_champion": "auto"}

Weights = dict[str, Any]


@pytest.fixture(scope="session")
def champion(snapshot: StepRef, rows_file: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model that knows the rows well."""
    from retrainer.spec import parse_pipeline

    folder = tmp_path_factory.mktemp("champion")
    content = {
        "name": "tiny",
        "dataset": {"train": str(rows_file)},
        "model": {"base": str(tiny_bert), "max_length": 32},
        "training": {"num_train_epochs": 6, "learning_rate": 3e-3, "per_device_train_batch_size": 8},
        "publish": {"store": str(folder / "store")},
    }
    pipeline = parse_pipeline(content, where="test", base_folder=folder)
    return train_here(pipeline, snapshot, folder / "trained")[0]


def publish(
    pipeline: Pipeline,
    folder: Path,
    checkpoint: Path | None,
    *,
    rows: list[str] | None = None,
    expected: str | None = None,
    **manifest: Any,
) -> str:
    """A version with that checkpoint, live on the pipeline's channel."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"a graph")
    (folder / TRAIN_ROWS).write_bytes(pack_row_ids(rows or ["0" * 16]))
    if checkpoint is not None:
        shutil.copytree(checkpoint, folder / "checkpoint")
    content: dict[str, Any] = {
        "model": pipeline.name,
        "task": "text-classification",
        "labels": ("closed", "open"),
        "max_length": 32,
        "precisions": {"fp32": {"file": "onnx/model.onnx", "weight_types": {"FLOAT": 1}}},
        "files": {
            path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
            for path in folder.rglob("*")
            if path.is_file()
        },
        "metrics": {},
        "base_model": "somewhere",
        "base_revision": "1",
        "artifacts": {},
        "libraries": {},
        "git_commit": None,
    }
    made = Manifest.model_validate(content | manifest)
    model = Store.open(pipeline.publish.store).model(pipeline.name)
    done = model.publish(
        folder, made, channel="production", actor="tester", reason="test", decision=None, expected=expected
    )
    return done.version


def weights_of(checkpoint: Path) -> Weights:
    weights: Weights = load_file(checkpoint / "model.safetensors")
    return weights


def blend_of(checkpoint: Path) -> Blend:
    blend = TrainingRecord.load(checkpoint.parent).blend
    assert blend is not None
    return blend


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_the_weights_are_between_both_and_the_score_is_not_shown_to_be_worse(
    make_pipeline: MakePipeline, snapshot: StepRef, champion: Path, tmp_path: Path
) -> None:
    plain, _ = train_here(make_pipeline(WEAK), snapshot, tmp_path / "plain")
    pipeline = make_pipeline({**WEAK, **BLEND})
    version = publish(pipeline, tmp_path / "version", champion, rows=["00000000000000aa"])
    checkpoint, trained = train_here(pipeline, snapshot, tmp_path / "blended")

    blend = blend_of(checkpoint)
    assert trained.blend == blend
    assert (blend.champion, blend.why_not) == (version, None)
    assert blend.metric == "accuracy"
    assert tuple(one.share for one in blend.tried) == SHARES
    none, kept = blend.tried[0], next(one for one in blend.tried if one.share == blend.share)
    assert blend.share > 0
    assert kept.harmful < none.harmful
    assert kept.no_worse
    before = TrainingRecord.load(plain.parent).validation
    assert none.score == before["accuracy"]
    assert trained.metrics.keys() == before.keys()
    assert trained.metrics["accuracy"] == kept.score
    assert "champion's share" in dict(trained.facts())

    own, theirs, mixed = weights_of(plain), weights_of(champion), weights_of(checkpoint)
    for name, weight in mixed.items():
        expected = own[name] + np.float32(blend.share) * (theirs[name] - own[name])
        assert np.allclose(weight, expected, atol=1e-6), name
    # The next models must not be judged by what the champion learnt.
    assert (checkpoint.parent / BLENDED_WITH / TRAIN_ROWS).read_bytes() == bytes.fromhex("00000000000000aa")


def test_a_champion_that_helps_nothing_leaves_the_weights_alone(
    make_pipeline: MakePipeline, snapshot: StepRef, champion: Path, tmp_path: Path
) -> None:
    strong = {"num_train_epochs": 6}
    plain, before = train_here(make_pipeline(strong), snapshot, tmp_path / "plain")
    ignorant = tmp_path / "ignorant"
    shutil.copytree(champion, ignorant)
    weights = weights_of(champion)
    save_file({name: np.zeros_like(value) for name, value in weights.items()}, ignorant / "model.safetensors")
    pipeline = make_pipeline({**strong, **BLEND})
    publish(pipeline, tmp_path / "version", ignorant)
    checkpoint, trained = train_here(pipeline, snapshot, tmp_path / "blended")
    assert blend_of(checkpoint).share == 0.0
    assert same(weights_of(checkpoint), weights_of(plain))
    assert trained.metrics == before.metrics
    assert not (checkpoint.parent / BLENDED_WITH).exists()


def test_labels_in_another_order_are_put_right(
    make_pipeline: MakePipeline, snapshot: StepRef, champion: Path, tmp_path: Path
) -> None:
    turned = tmp_path / "turned"
    shutil.copytree(champion, turned)
    weights = weights_of(champion)
    save_file(
        weights | {name: weights[name][::-1].copy() for name in ("classifier.weight", "classifier.bias")},
        turned / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((turned / "config.json").read_text())
    config |= {"id2label": {"0": "open", "1": "closed"}, "label2id": {"open": 0, "closed": 1}}
    (turned / "config.json").write_text(json.dumps(config))

    outcomes = []
    for name, checkpoint in (("straight", champion), ("turned", turned)):
        pipeline = make_pipeline({**WEAK, **BLEND}, publish={"store": str(tmp_path / f"{name}_store")})
        publish(pipeline, tmp_path / f"{name}_version", checkpoint)
        outcomes.append(train_here(pipeline, snapshot, tmp_path / f"{name}_trained")[0])
    straight, crosswise = outcomes
    assert blend_of(straight).share > 0
    assert blend_of(straight).tried == blend_of(crosswise).tried
    assert same(weights_of(straight), weights_of(crosswise))


def without(champion: Path, folder: Path) -> None:
    """Nothing is published."""


def change_config(**changes: Any) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        path = checkpoint / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def other_tokenizer(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"]["lowercase"] = not content["normalizer"]["lowercase"]
    path.write_text(json.dumps(content))


def change_weights(change: Callable[[Weights], Weights]) -> Callable[[Path], None]:
    def apply(checkpoint: Path) -> None:
        path = checkpoint / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return apply


def pickled(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")


def drop_bias(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if name != "classifier.bias"}


def third_label(weights: Weights) -> Weights:
    return weights | {
        name: np.concatenate([weights[name], weights[name][:1]]) for name in ("classifier.weight", "classifier.bias")
    }


@pytest.mark.parametrize(
    ("change", "manifest", "said"),
    [
        (shutil.rmtree, {}, "published without its checkpoint"),
        (pickled, {}, "published without its checkpoint"),
        (None, {"task": "text-pair-classification"}, "a model for text-pair-classification"),
        (other_tokenizer, {}, "another tokenizer"),
        (change_config(architectures=["RobertaForSequenceClassification"]), {}, "is a RobertaForSequenceClass"),
        (change_config(num_attention_heads=4), {}, "num_attention_heads is 4, here 2"),
        (change_config(id2label={"0": "shut", "1": "open"}), {}, "knows other labels: closed, shut"),
        (change_weights(drop_bias), {}, "does not fit its configuration"),
        (change_weights(third_label), {}, "does not fit its configuration|cannot be loaded"),
    ],
)
def test_where_it_cannot_be_the_run_goes_on_and_says_why(
    change: Callable[[Path], None] | None,
    manifest: dict[str, Any],
    said: str,
    make_pipeline: MakePipeline,
    snapshot: StepRef,
    champion: Path,
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "changed"
    shutil.copytree(champion, checkpoint)
    if change is not None:
        change(checkpoint)
    pipeline = make_pipeline({"max_steps": 1, **BLEND})
    version = publish(pipeline, tmp_path / "version", checkpoint if checkpoint.is_dir() else None, **manifest)
    trained, _ = train_here(pipeline, snapshot, tmp_path / "trained")
    blend = blend_of(trained)
    assert blend.champion == version
    assert blend.share == 0
    assert re.search(said, blend.why_not or ""), blend
    assert blend.line() in (tmp_path / "trained" / "messages.jsonl").read_text()


def test_without_a_champion_it_is_said(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    trained, _ = train_here(make_pipeline({"max_steps": 1, **BLEND}), snapshot, tmp_path / "trained")
    assert blend_of(trained) == Blend(why_not="the channel has no champion yet")


def test_rows_that_the_champion_was_trained_on_choose_no_share(
    make_pipeline: MakePipeline, snapshot: StepRef, champion: Path, tmp_path: Path
) -> None:
    folder = Artifacts(snapshot.root).fetch("ingest", snapshot.digest)
    rows = pq.read_table(folder / "validation.parquet").column("row_id").to_pylist()
    pipeline = make_pipeline({"max_steps": 1, **BLEND})
    first = publish(pipeline, tmp_path / "some", champion, rows=rows[:5])
    some, _ = train_here(pipeline, snapshot, tmp_path / "of_some")
    assert (blend_of(some).rows, blend_of(some).left_out) == (len(rows) - 5, 5)
    publish(pipeline, tmp_path / "all", champion, rows=rows, expected=first)
    every, _ = train_here(pipeline, snapshot, tmp_path / "of_all")
    assert blend_of(every).why_not == "the champion was trained on every validation row"


def test_a_damaged_checkpoint_ends_the_step(
    make_pipeline: MakePipeline, snapshot: StepRef, champion: Path, tmp_path: Path
) -> None:
    pipeline = make_pipeline({"max_steps": 1, **BLEND})
    version = publish(pipeline, tmp_path / "version", champion)
    stored = Path(pipeline.publish.store) / "tiny" / "versions" / version / "checkpoint" / "model.safetensors"
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(data)
    with pytest.raises(IntegrityError, match="not the one that was published"):
        train_here(pipeline, snapshot, tmp_path / "trained")


def test_the_champion_is_part_of_what_is_trained_where_it_is_asked_for(
    make_pipeline: MakePipeline, snapshot: StepRef, champion: Path, tmp_path: Path
) -> None:
    plain, blending = make_pipeline(), make_pipeline(BLEND)

    def digest(pipeline: Pipeline) -> str:
        return planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).digest

    before, first = digest(plain), digest(blending)
    assert before != first
    published = publish(plain, tmp_path / "version", champion)
    second = digest(blending)
    assert digest(plain) == before
    assert len({before, first, second}) == 3
    publish(plain, tmp_path / "other", None, expected=published)
    assert digest(blending) not in {before, first, second}


@pytest.mark.long
def test_two_processes_blend_as_one(
    make_pipeline: MakePipeline, rows_file: Path, snapshot: StepRef, champion: Path, tmp_path: Path
) -> None:
    # And share what frozen layers make of the rows, which only the first of them writes.
    pipeline = make_pipeline({**WEAK, **BLEND, "freeze_layers": 1}, resources={"processes": 2})
    publish(pipeline, tmp_path / "version", champion)
    ref = run_step(INGEST.plan(pipeline, context=in_root(tmp_path / "artifacts")), on_message=ignore)
    trained = run_step(TRAIN.plan(pipeline, ref, context=in_root(tmp_path / "artifacts")), on_message=ignore)
    blend = TRAIN.output_of(trained).blend
    assert blend is not None
    assert len(blend.tried) == len(SHARES)


counts = st.integers(0, 20)


@given(st.lists(st.tuples(st.booleans(), counts, counts), min_size=len(SHARES), max_size=len(SHARES)))
def test_the_chosen_share_is_no_worse_and_has_the_fewest_harmful_flips(drawn: list[tuple[bool, int, int]]) -> None:
    tried = [
        TriedShare(share=share, score=0.5, no_worse=no_worse, harmful=harmful, beneficial=beneficial)
        for share, (no_worse, harmful, beneficial) in zip(SHARES, drawn, strict=True)
    ]
    chosen, plain = choose(tried), tried[0]
    assert chosen is plain or (chosen.no_worse and chosen.harmful < plain.harmful)
    for other in tried:
        assert not other.no_worse or (other.harmful, other.share) >= (chosen.harmful, chosen.share)


def logits_with(wrong: set[int], rows: int) -> Any:
    """What answers label 0 and 1 in turn, but for these rows, and is as sure everywhere."""
    logits = np.zeros((rows, 2), dtype=np.float32)
    truth = np.arange(rows) % 2
    answers = np.where(np.isin(np.arange(rows), sorted(wrong)), 1 - truth, truth)
    logits[np.arange(rows), answers] = 2.0
    return logits


def tried_with(
    plain: set[int], blended: set[int], rows: int, *, champion: set[int] | None = None, metric: str = "accuracy"
) -> list[TriedShare]:
    """Each share but none has the same rows wrong."""
    logits = dict.fromkeys(SHARES[1:], logits_with(blended, rows))
    logits |= {SHARES[0]: logits_with(plain, rows), WHOLE: logits_with(champion or set(), rows)}
    return tried_shares(logits, np.arange(rows) % 2, np.ones(rows, dtype=np.bool_), metric, positive=1)


EVERY_METRIC = [*names_of("classification"), "loss"]
# Rows of both labels.
FEW, MANY = set(range(6)), set(range(100))


@pytest.mark.parametrize("metric", EVERY_METRIC)
def test_what_rows_show_to_be_worse_by_the_metric_is_refused(metric: str) -> None:
    plain, *shares = tried_with(FEW, MANY, 300, metric=metric)
    assert plain.no_worse
    assert plain.score is not None
    assert not any(one.no_worse for one in shares)
    assert all(one.no_worse for one in tried_with(MANY, FEW, 300, metric=metric))
    assert tried_with(FEW, MANY, 300, metric=metric) == [plain, *shares]


@pytest.mark.parametrize(
    ("lost", "won", "no_worse"),
    [(1, 0, True), (2, 0, False), (6, 3, True), (8, 3, False), (30, 24, True), (0, 0, True)],
)
def test_one_row_does_not_decide_and_a_loss_beyond_chance_does(lost: int, won: int, no_worse: bool) -> None:
    tried = tried_with(set(range(100, 100 + won)), set(range(lost)), 300)
    assert {one.no_worse for one in tried[1:]} == {no_worse}
    assert all(one.harmful == lost for one in tried[1:])


def test_answers_that_are_no_numbers_are_refused() -> None:
    logits = {share: logits_with(FEW, 40) for share in (WHOLE, *SHARES)}
    logits[0.3] = np.full_like(logits[0.3], np.nan)
    tried = tried_shares(logits, np.arange(40) % 2, np.ones(40, dtype=np.bool_), "accuracy", positive=1)
    assert [one.share for one in tried if not one.no_worse] == [0.3]
    assert choose(tried).share == 0.0


def test_a_metric_without_a_value_takes_no_share() -> None:
    truth = np.zeros(20, dtype=np.int64)  # of one label alone there is no AUROC
    logits = {share: logits_with(FEW if share in (0.0, 0.1) else set(), 20) for share in (WHOLE, *SHARES)}
    tried = tried_shares(logits, truth, np.ones(20, dtype=np.bool_), "auroc", positive=1)
    assert {one.score for one in tried} == {None}
    assert choose(tried).share == 0.0


def test_only_rows_that_judge_count() -> None:
    logits = {share: logits_with(MANY, 300) for share in SHARES} | {WHOLE: logits_with(set(), 300)}
    logits[0.0] = logits_with(FEW, 300)
    judged = np.arange(300) >= len(MANY)
    tried = tried_shares(logits, np.arange(300) % 2, judged, "accuracy", positive=1)
    assert all(one.no_worse and one.harmful == 0 and one.score == 1.0 for one in tried)


@pytest.mark.long
def test_a_whole_run_blends_with_what_the_run_before_published(
    make_pipeline: MakePipeline, rows_file: Path, tmp_path: Path
) -> None:
    lines = rows_file.read_text().splitlines()
    grown = tmp_path / "grown.csv"

    def run(count: int, training: dict[str, Any]) -> tuple[RunResult, Manifest]:
        grown.write_text("\n".join(lines[: count + 1]) + "\n")
        pipeline = make_pipeline(
            {**training, **BLEND},
            dataset={"train": str(grown)},
            gate={
                "floors": {"accuracy": 0.1},
                "baseline": "report",
                "against_champion": {"margin": 0.9},
            },
            publish={"store": str(tmp_path / "store"), "include_checkpoint": True},
        )
        result = run_pipeline(pipeline, context=new_context(str(tmp_path / "artifacts"), actor="tester"))
        champion = Store.open(tmp_path / "store").model("tiny").champion("production")
        assert champion is not None
        return result, champion

    # Long enough that half of what it learnt still tells in the average with a model that has learnt next to nothing.
    first, before = run(160, {"num_train_epochs": 12})
    assert first.outcome == "promoted"
    assert TRAIN.output_of(first.steps["train"]).blend == Blend(why_not="the channel has no champion yet")

    second, after = run(230, WEAK)
    assert second.outcome == "promoted"
    blend = TRAIN.output_of(second.steps["train"]).blend
    assert blend is not None
    assert (blend.champion, blend.why_not) == (before.version, None)
    assert blend.share > 0
    # What was published is what was blended, and knows the rows of both.
    model = Store.open(tmp_path / "store").model("tiny")
    for manifest, name in ((before, "before"), (after, "after")):
        model.fetch(manifest.version, tmp_path / name)
    trained = Artifacts(str(tmp_path / "artifacts")).fetch("train", second.steps["train"].digest)
    assert same(weights_of(tmp_path / "after" / "checkpoint"), weights_of(trained / "checkpoint"))
    assert "blended with champion" in (tmp_path / "after" / "README.md").read_text()
    assert set(row_ids_of(tmp_path / "before")) <= set(row_ids_of(tmp_path / "after"))

    # The champion is not blended with itself for ever.
    third, still = run(230, WEAK)
    assert third.outcome == "unchanged"
    assert still == after
