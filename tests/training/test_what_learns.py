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
from retrainer.chain import TRAIN, StepRef
from retrainer.errors import PipelineError
from retrainer.spec import Pipeline
from retrainer.work import train
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

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        Stop.seen += (state.global_step,)
        if state.global_step == Stop.at:
            raise KeyboardInterrupt


STOP = f"{__name__}.Stop"


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stop, "at", None)
    monkeypatch.setattr(Stop, "seen", ())
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
    version = publish(pipeline, tmp_path / "version", champion, rows=["00000000000000aa"])
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


def test_the_champion_of_this_very_training_asks_for_no_other(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path
) -> None:
    pipeline = make_pipeline({"max_steps": 1, "warm_start": "champion"})
    request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT))
    artifacts = Artifacts(request.root)
    checkpoint, trained = train_here(pipeline, snapshot, tmp_path / "here")
    with artifacts.staging("train", request.digest) as folder:
        shutil.copytree(checkpoint, folder / "checkpoint")
        artifacts.commit(
            folder,
            step="train",
            digest=request.digest,
            identity=request.identity,
            inputs={"ingest": snapshot.digest},
            output=trained.model_dump(mode="json"),
            created_at="2026-01-01T00:00:00Z",
        )
    publish(pipeline, tmp_path / "version", checkpoint, artifacts={"train": request.digest})
    assert planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).digest == request.digest
    more = make_pipeline({"max_steps": 2, "warm_start": "champion"})
    assert planned(TRAIN.plan(more, snapshot, context=CONTEXT)).identity["warm_start"]["champion"] is not None


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
    assert identity(make_pipeline({"freeze_layers": "half"}))["freeze_layers"] == "half"
