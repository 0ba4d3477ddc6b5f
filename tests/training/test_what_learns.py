"""What learns and from where: ``peft``, ``warm_start``, ``callbacks``, and where TensorBoard's events are left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import TrainerCallback

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import TrainingRecord, WarmStart
from retrainer.chain import TRAIN, StepRef, StepRequest
from retrainer.errors import PipelineError
from retrainer.sources.base_models import fingerprint
from retrainer.spec import Pipeline
from retrainer.work import train
from retrainer.work.rehearsal import rehearse
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import BLENDED_WITH, TRAIN_ROWS
from retrainer.work.train.checkpoints import Marker
from tests.chain.made import CONTEXT, planned
from tests.training.conftest import MakePipeline, train_here
from tests.training.test_blending import publish

Weights = dict[str, Any]


def weights_of(checkpoint: Path) -> Weights:
    weights: Weights = load_file(checkpoint / "model.safetensors")
    return weights


class Stop(TrainerCallback):  # type: ignore[misc]
    """Ends a training in a way that no step of ours does."""

    at: int | None = None
    seen: tuple[int, ...] = ()
    fails_in: str = ""

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if Stop.fails_in == "on_init_end":
            raise ValueError("no seed for it")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        Stop.seen += (state.global_step,)
        if state.global_step == Stop.at:
            raise KeyboardInterrupt
        if Stop.fails_in == "on_step_end":
            raise ValueError("no seed for it")


STOP = f"{__name__}.Stop"


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stop, "at", None)
    monkeypatch.setattr(Stop, "seen", ())
    monkeypatch.setattr(Stop, "fails_in", "")
    monkeypatch.setitem(os.environ, "TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.delitem(os.environ, "TENSORBOARD_LOGGING_DIR")


def test_a_callback_by_its_name_sees_each_step(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    train_here(make_pipeline({"max_steps": 3, "callbacks": STOP}), snapshot, tmp_path / "here")
    assert Stop.seen == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package.Callback", "No module named 'no_such_package'"),
        (f"{__name__}.NoSuch", "has no attribute 'NoSuch'"),
        ("builtins.dict", "is not a class of callbacks"),
        ("transformers.trainer_callback.EarlyStoppingCallback.on_evaluate", "is not a class of callbacks"),
        ("transformers.trainer_callback.CallbackHandler", "cannot be made"),
    ],
)
def test_what_is_not_a_callback_is_refused(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(PipelineError, match=said) as caught:
        train_here(make_pipeline({"callbacks": [name]}), snapshot, tmp_path / "here")
    assert caught.value.where == "tiny: training.callbacks"


@pytest.mark.parametrize("event", ["on_init_end", "on_step_end"])
def test_a_callback_that_fails_is_named(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    """And not the argument that its message happens to be about."""
    monkeypatch.setattr(Stop, "fails_in", event)
    pipeline = make_pipeline({"max_steps": 1, "seed": 3, "callbacks": STOP})
    with pytest.raises(PipelineError, match=rf"{STOP} ended the training with ValueError: no seed") as caught:
        train_here(pipeline, snapshot, tmp_path / "here")
    assert caught.value.where == "tiny: training.callbacks"


def test_tensorboard_has_its_events_beside_the_checkpoint(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path
) -> None:
    checkpoint, _ = train_here(make_pipeline({"max_steps": 2, "report_to": "tensorboard"}), snapshot, tmp_path / "here")
    events = list((checkpoint.parent / "tensorboard").rglob("events*"))
    assert events
    assert all(path.stat().st_size for path in events)


def test_lora_trains_little_and_ends_in_the_weights(
    make_pipeline: MakePipeline, snapshot: StepRef, tiny_bert: Path, tmp_path: Path
) -> None:
    plain, _ = train_here(make_pipeline({"max_steps": 1}), snapshot, tmp_path / "plain")
    lora = {"r": 4, "alpha": 8, "target_modules": ["query", "value"]}
    checkpoint, trained = train_here(
        make_pipeline({"peft": lora, "num_train_epochs": 1, "learning_rate": 1e-2}), snapshot, tmp_path / "lora"
    )
    own, base = weights_of(checkpoint), load_file(tiny_bert / "model.safetensors")
    assert own.keys() == weights_of(plain).keys()
    assert not list(checkpoint.glob("adapter*"))
    # Two layers, of each two matrices from and to four of 32 numbers; and the head.
    assert trained.trained_parameters == 2 * 2 * 2 * 4 * 32 + 2 * 32 + 2
    assert trained.trained_parameters == TrainingRecord.load(checkpoint.parent).trained_parameters
    assert trained.parameters == sum(weight.size for weight in own.values())
    changed = {
        name for name, weight in own.items() if name.startswith("bert.") and not np.array_equal(weight, base[name[5:]])
    }
    assert changed == {
        f"bert.encoder.layer.{at}.attention.self.{name}.weight" for at in (0, 1) for name in ("query", "value")
    }


def test_no_layer_of_that_name(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    pipeline = make_pipeline({"peft": {"target_modules": "q_proj"}})
    with pytest.raises(PipelineError, match="q_proj") as caught:
        train_here(pipeline, snapshot, tmp_path / "here")
    assert caught.value.where == "tiny: training.peft.target_modules"


def test_a_wrong_name_among_right_ones(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    pipeline = make_pipeline({"peft": {"target_modules": ["query", "vaule"]}, "max_steps": 1})
    with pytest.raises(PipelineError, match="fits vaule") as caught:
        train_here(pipeline, snapshot, tmp_path / "here")
    assert caught.value.where == "tiny: training.peft.target_modules"
    assert "did you mean value?" in str(caught.value)


def test_a_rehearsal_finds_it_in_the_configuration_alone(
    make_pipeline: MakePipeline, tiny_bert: Path, tmp_path: Path
) -> None:
    """Before a row is read, and without the weights."""
    base = shutil.copytree(tiny_bert, tmp_path / "base")
    (base / "model.safetensors").unlink()
    model = {"model": {"base": str(base), "max_length": 32}}
    for targets in ("all-linear", ["query", "value"]):
        rehearse(make_pipeline({"peft": {"target_modules": targets}}, **model))
    for targets in ("q_proj", ["query", "vaule"]):
        with pytest.raises(PipelineError, match="no layer of the model") as caught:
            rehearse(make_pipeline({"peft": {"target_modules": targets}}, **model))
        assert caught.value.where == "tiny: training.peft.target_modules"
    # What cannot be built is said when it is loaded.
    (base / "config.json").write_text("{}")
    rehearse(make_pipeline({"peft": {"target_modules": "q_proj"}}, **model))


def test_all_linear_stands_alone(make_pipeline: MakePipeline) -> None:
    with pytest.raises(PipelineError, match="all-linear is every linear layer"):
        make_pipeline({"peft": {"target_modules": ["all-linear", "query"]}})
    make_pipeline({"peft": {"target_modules": "all-linear"}})


@pytest.mark.parametrize("targets", [["query"], "all-linear"])
def test_a_pooler_that_the_base_lacks_learns_whole(
    make_pipeline: MakePipeline, snapshot: StepRef, tiny_bert: Path, tmp_path: Path, targets: Any
) -> None:
    base = shutil.copytree(tiny_bert, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    save_file({name: values for name, values in weights.items() if "pooler" not in name}, base / "model.safetensors")
    changes = {"model": {"base": str(base), "max_length": 32}}
    peft = {"peft": {"target_modules": targets}, "learning_rate": 1e-2}
    folders = {steps: tmp_path / f"after_{steps}" for steps in (1, 3)}
    first, last = (
        weights_of(train_here(make_pipeline({**peft, "max_steps": steps}, **changes), snapshot, folder)[0])
        for steps, folder in folders.items()
    )
    for name in ("weight", "bias"):
        assert not np.array_equal(first[f"bert.pooler.dense.{name}"], last[f"bert.pooler.dense.{name}"])
    assert first.keys() == {f"bert.{name}" for name in weights} | {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("what", [{"peft": {}}, {"freeze_layers": 1}])
def test_it_resumes_where_it_was_stopped(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path, what: dict[str, Any]
) -> None:
    steps = {"save_strategy": "steps", "save_steps": 4, "max_steps": 10, "eval_strategy": "no", "logging_steps": 4}
    pipeline = make_pipeline({**what, **steps, "callbacks": STOP})
    straight, _ = train_here(pipeline, snapshot, tmp_path / "straight")
    Stop.at = 7
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_here(pipeline, snapshot, folder)
    assert list(folder.rglob(f"checkpoint-4/{Marker.file}"))
    Stop.at = None
    request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).model_copy(update={"root": str(folder / "root")})
    inputs = {"ingest": Artifacts(snapshot.root).fetch("ingest", snapshot.digest)}
    trained = train.run(request, inputs, folder, Reporter(folder / "messages.jsonl"))
    assert trained is not None
    assert trained.resumed_from == "checkpoint-4"
    first, second = weights_of(straight), weights_of(folder / "checkpoint")
    assert max(float(abs(first[name] - second[name]).max()) for name in first) < 1e-5


def started_from(pipeline: Pipeline, snapshot: StepRef, folder: Path) -> tuple[Path, WarmStart]:
    checkpoint, trained = train_here(pipeline, snapshot, folder)
    assert trained.warm_start is not None
    assert trained.warm_start == TrainingRecord.load(folder).warm_start
    return checkpoint, trained.warm_start


def test_a_training_starts_from_the_champion(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    hardly = {"max_steps": 1, "learning_rate": 1e-9, "warm_start": "champion"}
    pipeline = make_pipeline(hardly)
    cold, start = started_from(pipeline, snapshot, tmp_path / "cold")
    assert start == WarmStart(why_not="the channel has no champion yet")
    assert not (cold.parent / BLENDED_WITH).exists()

    champion, _ = train_here(make_pipeline({"num_train_epochs": 1}), snapshot, tmp_path / "champion")
    of_base = fingerprint(pipeline.model)
    version = publish(pipeline, tmp_path / "version", champion, rows=["00000000000000aa"], base_revision=of_base)
    warm, start = started_from(pipeline, snapshot, tmp_path / "warm")
    assert start == WarmStart(champion=version)
    theirs, own, other = weights_of(champion), weights_of(warm), weights_of(cold)
    assert max(float(abs(own[name] - theirs[name]).max()) for name in own) < 1e-6
    assert max(float(abs(own[name] - other[name]).max()) for name in own) > 1e-4
    # The next models must not be judged by what the champion learnt.
    assert (warm.parent / BLENDED_WITH / TRAIN_ROWS).read_bytes() == bytes.fromhex("00000000000000aa")
    # Another champion is another training; with the setting off, it is none of its concern.
    identity = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).identity
    assert identity["warm_start"] == {"champion": version, "why_not": None}
    assert "warm_start" not in planned(TRAIN.plan(make_pipeline(), snapshot, context=CONTEXT)).identity

    both = make_pipeline({**hardly, "blend_with_champion": "auto", "peft": {}})
    checkpoint, start = started_from(both, snapshot, tmp_path / "both")
    assert start.why_not is None
    blend = TrainingRecord.load(checkpoint.parent).blend
    assert blend is not None
    assert (blend.champion, blend.why_not) == (version, None)


def test_a_champion_that_cannot_be_started_from_is_said(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path
) -> None:
    pipeline = make_pipeline({"max_steps": 1, "warm_start": "champion"})
    version = publish(pipeline, tmp_path / "version", None)
    _, start = started_from(pipeline, snapshot, tmp_path / "here")
    assert start.champion == version
    assert "without its checkpoint" in (start.why_not or "")


@pytest.fixture
def other_bert(tiny_bert: Path, tmp_path: Path) -> Path:
    """Another base of the same shape."""
    folder = tmp_path / "other_bert"
    shutil.copytree(tiny_bert, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 0.5 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_champion_of_another_base_is_not_started_from_and_can_be_blended_with(
    make_pipeline: MakePipeline, snapshot: StepRef, tiny_bert: Path, other_bert: Path, tmp_path: Path
) -> None:
    both = {"max_steps": 1, "warm_start": "champion", "blend_with_champion": "auto"}
    pipeline = make_pipeline(both, model={"base": [str(tiny_bert), str(other_bert)], "max_length": 32})
    champion, _ = train_here(make_pipeline({"max_steps": 2}), snapshot, tmp_path / "champion")
    of_first = fingerprint(pipeline.of_base(str(tiny_bert)).model)
    version = publish(pipeline, tmp_path / "version", champion, base_revision=of_first)
    _, first = started_from(pipeline.of_base(str(tiny_bert)), snapshot, tmp_path / "first")
    checkpoint, other = started_from(pipeline.of_base(str(other_bert)), snapshot, tmp_path / "other")
    assert first == WarmStart(champion=version)
    assert other == WarmStart(champion=version, why_not="the champion was made from another base")
    assert not all(
        np.array_equal(value, weights_of(checkpoint)[name])
        for name, value in weights_of(tmp_path / "first" / "checkpoint").items()
    )
    blend = TrainingRecord.load(checkpoint.parent).blend
    assert blend is not None
    assert (blend.champion, blend.why_not) == (version, None)


@pytest.fixture
def made_of(snapshot: StepRef, tmp_path: Path) -> StepRef:
    """The same snapshot in a root of its own, where trainings can be said to be done."""
    root = str(tmp_path / "artifacts")
    _commit(root, "ingest", snapshot.digest, {})
    return snapshot.model_copy(update={"root": root})


def done(request: StepRequest) -> str:
    """The digest of the training, which is there from now on."""
    _commit(request.root, "train", request.digest, request.identity)
    return request.digest


def _commit(root: str, step: str, digest: str, identity: dict[str, Any]) -> None:
    """As far as planning looks at an artifact."""
    artifacts = Artifacts(root)
    with artifacts.staging(step, digest) as folder:
        artifacts.commit(
            folder, step=step, digest=digest, identity=identity, inputs={}, output={}, created_at="2026-01-01T00:00:00Z"
        )


@pytest.fixture
def a_checkpoint(tmp_path: Path) -> Path:
    """As far as planning looks at one."""
    folder = tmp_path / "a_checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


WARM, BLEND = {"warm_start": "champion"}, {"blend_with_champion": "auto"}


def uses_of(request: StepRequest) -> dict[str, Any]:
    return {use: request.identity[use] for use in ("blend", "warm_start") if use in request.identity}


def test_the_champion_of_this_very_training_asks_for_no_other(
    make_pipeline: MakePipeline, made_of: StepRef, a_checkpoint: Path, tmp_path: Path
) -> None:
    pipeline = make_pipeline({"max_steps": 1, **WARM})
    digest = done(planned(TRAIN.plan(pipeline, made_of, context=CONTEXT)))
    publish(pipeline, tmp_path / "version", a_checkpoint, artifacts={"train": digest})
    assert planned(TRAIN.plan(pipeline, made_of, context=CONTEXT)).digest == digest
    more = make_pipeline({"max_steps": 2, **WARM})
    assert planned(TRAIN.plan(more, made_of, context=CONTEXT)).identity["warm_start"]["champion"] is not None


EACH_CHOICE: tuple[dict[str, str], ...] = ({}, WARM, BLEND, {**WARM, **BLEND})


@pytest.mark.parametrize("before", EACH_CHOICE)
@pytest.mark.parametrize("now", EACH_CHOICE)
def test_a_use_of_the_champion_that_is_switched_on_or_off_is_heard(
    make_pipeline: MakePipeline,
    made_of: StepRef,
    a_checkpoint: Path,
    tmp_path: Path,
    before: dict[str, Any],
    now: dict[str, Any],
) -> None:
    first, second = make_pipeline(before), make_pipeline(now)
    request = planned(TRAIN.plan(first, made_of, context=CONTEXT))
    made = {"train": done(request)}
    of_base = fingerprint(first.model)
    version = publish(first, tmp_path / "version", a_checkpoint, artifacts=made, base_revision=of_base)
    again = planned(TRAIN.plan(second, made_of, context=CONTEXT))
    assert (again.digest == request.digest) == (now == before)
    asked = [use for use, key in (("blend", "blend_with_champion"), ("warm_start", "warm_start")) if key in now]
    expected = {"champion": version, "why_not": None}
    assert uses_of(again) == (uses_of(request) if now == before else dict.fromkeys(asked, expected))


@pytest.mark.parametrize("use", [WARM, BLEND, {**WARM, **BLEND}])
@pytest.mark.parametrize("older", ["none", "there", "removed"])
def test_without_new_data_no_base_model_is_trained_again(
    make_pipeline: MakePipeline,
    made_of: StepRef,
    a_checkpoint: Path,
    tiny_bert: Path,
    other_bert: Path,
    tmp_path: Path,
    use: dict[str, Any],
    older: str,
) -> None:
    bases = [str(tiny_bert), str(other_bert)]
    pipeline = make_pipeline(use, model={"base": bases, "max_length": 32})

    def requests() -> list[StepRequest]:
        return [planned(TRAIN.plan(pipeline, made_of, context=CONTEXT, base=base)) for base in bases]

    def promote(name: str, winner: int, digest: str, expected: str | None) -> str:
        revision = fingerprint(pipeline.of_base(bases[winner]).model)
        return publish(
            pipeline,
            tmp_path / name,
            a_checkpoint,
            rows=[digest[:16]],
            artifacts={"train": digest},
            base_revision=revision,
            expected=expected,
        )

    first = promote("older", 1, "0" * 64, None) if older != "none" else None
    before = requests()
    digests = [done(request) for request in before]
    second = promote("newer", 0, digests[0], first)
    if older == "removed":
        shutil.rmtree(Path(pipeline.publish.store) / "tiny" / "versions" / str(first))
        assert requests()[0].digest == digests[0]
        return
    assert [request.digest for request in requests()] == digests
    # Other settings are another training, of the new champion.
    other = make_pipeline({**use, "max_steps": 3}, model={"base": bases, "max_length": 32})
    anew = planned(TRAIN.plan(other, made_of, context=CONTEXT, base=bases[1]))
    assert {of["champion"] for of in uses_of(anew).values()} == {second}


def test_a_base_model_that_is_new_to_the_list_uses_the_present_champion(
    make_pipeline: MakePipeline,
    made_of: StepRef,
    a_checkpoint: Path,
    tiny_bert: Path,
    other_bert: Path,
    tmp_path: Path,
) -> None:
    one = make_pipeline(BLEND)
    digest = done(planned(TRAIN.plan(one, made_of, context=CONTEXT)))
    version = publish(one, tmp_path / "version", a_checkpoint, artifacts={"train": digest})
    two = make_pipeline(BLEND, model={"base": [str(tiny_bert), str(other_bert)], "max_length": 32})
    added = planned(TRAIN.plan(two, made_of, context=CONTEXT, base=str(other_bert)))
    assert uses_of(added) == {"blend": {"champion": version, "why_not": None}}


def test_keys_that_came_later_change_no_digest_where_they_say_nothing(
    make_pipeline: MakePipeline, snapshot: StepRef
) -> None:
    """In either form: Airflow hands pipelines on as JSON, in which each key is given."""

    def identity(pipeline: Pipeline) -> Any:
        return planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).identity["training"]

    plain = make_pipeline({"seed": 1})
    packed = Pipeline.from_json(plain.to_json(), where="test")
    assert identity(plain) == identity(packed)
    assert set(identity(plain)) == {"arguments", "early_stopping_patience"}
    assert identity(make_pipeline({"peft": {}}))["peft"]["r"] == 8
    frozen = identity(make_pipeline({"freeze_layers": "half"}))
    assert frozen["freeze_layers"] == "half"
    # What gives the same model is the same training.
    assert identity(make_pipeline({"freeze_layers": "half", "freeze_cache_gb": 1})) == frozen
    names = [["query", "value"], ["value", "query"], ["query", "value", "query"]]
    trainings = [identity(make_pipeline({"peft": {"target_modules": one}})) for one in names]
    assert trainings[1:] == trainings[:-1]
