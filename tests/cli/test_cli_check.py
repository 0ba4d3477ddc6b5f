"""``retrainer check``: a line a check, from the file's keys to the store; writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrainer.cli import pipeline_commands
from retrainer.doctor.findings import Finding
from retrainer.errors import PipelineError
from retrainer.sources.base_models import require_sizes
from retrainer.spec import load_pipeline

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench


def states(output: str) -> dict[str, str]:
    """Check to state."""
    return {
        line[11:27].strip(): line[2:10].strip()
        for line in output.splitlines()
        if line[:2] == "  " and line[2:3].strip()
    }


def test_everything_in_order(cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path) -> None:
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    bench.rows(tmp_path / "test.csv", 10, seed=2)
    before = sorted(tmp_path.rglob("*"))
    pipeline = bench.pipeline(tmp_path, tiny_bert)
    answer = cli("check", pipeline)
    assert answer.returncode == 0, answer.stdout
    assert states(answer.stdout) == dict.fromkeys(["pipeline", "train data", "test data", "base model", "store"], "ok")
    assert "production serves nothing yet" in answer.stdout
    assert sorted(tmp_path.rglob("*")) == sorted([*before, pipeline])


def test_names_the_champion(cli: Cli, published: Published) -> None:
    assert f"production serves version {published.version}" in cli("check", published.pipeline).stdout


def test_all_problems_of_all_files_are_found_in_one_go(
    cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path
) -> None:
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    (tmp_path / "test.csv").write_text("text\nwithout label\n")
    (tmp_path / "store").write_text("a file")
    pipeline = bench.pipeline(tmp_path, tmp_path / "nothing")
    answer = cli("check", pipeline, tmp_path / "absent.yaml")
    assert answer.returncode == 1
    assert "4 problems found" in answer.stderr
    found = answer.stdout
    assert "no column 'label'" in found
    assert "no such folder" in found
    assert "absent.yaml" in found
    assert "Traceback" not in answer.stderr


def test_columns_of_slices_are_wanted_where_rows_are_judged(
    cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path
) -> None:
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    (tmp_path / "test.csv").write_text("text,label,region\na,open,north\n")
    gate = {"floors": {"accuracy": 0.5}, "slices": {"by": ["label", "length", "region"]}}
    assert cli("check", bench.pipeline(tmp_path, tiny_bert, gate=gate)).returncode == 0
    gate["slices"] = {"by": ["county"]}
    answer = cli("check", bench.pipeline(tmp_path, tiny_bert, gate=gate))
    assert answer.returncode == 1
    assert states(answer.stdout) | {"train data": "ok", "test data": "problem"} == states(answer.stdout)


def test_what_a_training_needs_and_has_not_is_a_problem(
    cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path
) -> None:
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    bench.rows(tmp_path / "test.csv", 10, seed=2)
    for arguments, said in (
        ({"report_to": "wandb"}, "training.report_to: 'wandb' needs wandb, which is not installed"),
        ({"report_to": ["tensorboard", "mlflow"]}, "training.report_to: 'mlflow' needs mlflow"),
        ({"report_to": "tensorbord"}, "'tensorbord' is not one of all, azure_ml"),
        ({"optim": "adamw_8bit"}, "training.optim: 'adamw_8bit' needs bitsandbytes"),
        ({"optim": "galore_adamw", "optim_target_modules": "all-linear"}, "needs galore_torch"),
        ({"use_liger_kernel": True}, "needs liger_kernel"),
        ({"debug": "tpu_metrics_debug"}, "training.debug: 'tpu_metrics_debug' needs torch_xla"),
        ({"max_steps": 0}, "training.max_steps: must be at least 1"),
    ):
        answer = cli("check", bench.pipeline(tmp_path, tiny_bert, training=arguments))
        assert answer.returncode == 1, answer.stdout
        assert said in answer.stdout


def test_texts_that_are_longer_than_the_base_takes(cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path) -> None:
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    bench.rows(tmp_path / "test.csv", 10, seed=2)
    file = bench.pipeline(tmp_path, tiny_bert, model={"base": str(tiny_bert), "max_length": 512})
    said = f"model.max_length: 512 tokens, but {tiny_bert} takes at most 128"
    answer = cli("check", file)
    assert (answer.returncode, states(answer.stdout)["base model"]) == (1, "problem")
    assert said in answer.stdout
    answer = cli("run", file)
    assert answer.returncode == 1
    assert said in answer.stderr
    assert not list(tmp_path.rglob("train.parquet"))


@pytest.mark.parametrize(
    ("config", "layers", "hint"),
    [
        ({}, "99", "from 1 to 1"),
        ({}, "2", "from 1 to 1"),
        ({}, "half", ""),
        ({}, "1", ""),
        ({"num_hidden_layers": 1}, "half", "drop it"),
        ({"num_hidden_layers": None, "n_layers": 6}, "7", "from 1 to 5"),
        ({"num_hidden_layers": None}, "99", ""),
    ],
)
def test_more_frozen_layers_than_the_base_has(
    bench: Workbench, tmp_path: Path, tiny_bert: Path, config: dict[str, int | None], layers: str, hint: str
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    content = json.loads((tiny_bert / "config.json").read_text()) | config
    (base / "config.json").write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    training = {"freeze_layers": layers if layers == "half" else int(layers)}
    pipeline = load_pipeline(bench.pipeline(tmp_path, base, training=training))
    if not hint:
        require_sizes(pipeline)
        return
    with pytest.raises(PipelineError, match="at least one must be frozen and one must learn") as caught:
        require_sizes(pipeline)
    assert (caught.value.where or "").endswith(": training.freeze_layers")
    assert hint in (caught.value.hint or "")


@pytest.fixture
def hub_folder(tmp_path: Path, bench: Workbench) -> Path:
    (tmp_path / "set").mkdir()
    bench.rows(tmp_path / "set" / "train.csv", 20, seed=1)
    bench.rows(tmp_path / "set" / "test.csv", 20, seed=2)
    return tmp_path / "set"


def test_splits_that_only_datasets_knows_are_asked_of_it(
    hub_folder: Path, bench: Workbench, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, with as much time as it takes on a busy machine."""
    monkeypatch.setattr(pipeline_commands, "REHEARSAL_SECONDS", 120.0)

    def rehearsal(split: str) -> Finding:
        source = {"hub": {"path": "set", "split": split}, "checks": {"min_rows": 10}}
        file = bench.pipeline(hub_folder.parent, tiny_bert, dataset=source)
        (found,) = (one for one in pipeline_commands.check_file(file) if one.what == "rehearsal")
        return found

    assert rehearsal("train[:50%]+test").state == "ok"
    missing = rehearsal("validation")
    assert (missing.state, missing.text) == (
        "broken",
        f"dataset {hub_folder}, split validation: Unknown split \"validation\". Should be one of ['train', 'test'].",
    )
    monkeypatch.setattr(pipeline_commands, "REHEARSAL_SECONDS", 0.01)
    assert rehearsal("validation").state == "warning"


def test_the_first_step_says_what_check_says(cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path) -> None:
    bench.rows(tmp_path / "train.csv", 60, seed=1)
    bench.rows(tmp_path / "test.csv", 60, seed=2)
    answer = cli("run", bench.pipeline(tmp_path, tiny_bert, training={"report_to": "wandb"}))
    assert answer.returncode == 1
    assert "training.report_to: 'wandb' needs wandb, which is not installed" in answer.stderr
    assert not list(tmp_path.rglob("train.parquet"))
    named = bench.pipeline(tmp_path, tiny_bert, metrics=["f1_binary"], positive_label="opened")
    answer = cli("run", named)
    assert answer.returncode == 1
    assert "positive_label: 'opened' is not a label; did you mean 'open'? (labels: closed, open)" in answer.stderr


def test_whether_there_is_a_checkpoint_to_blend_with(
    cli: Cli, bench: Workbench, published: Published, tmp_path: Path, tiny_bert: Path
) -> None:
    """Notes: a run goes on without one."""
    for name, seed in (("train.csv", 1), ("test.csv", 2)):
        bench.rows(tmp_path / name, 10, seed=seed)
    for folder, noted, quiet in (
        (tmp_path / "store", "publish.include_checkpoint is off", "was published without its checkpoint"),
        (published.store, "was published without its checkpoint", "nothing else"),
    ):
        pipeline = bench.pipeline(
            tmp_path, tiny_bert, training={"blend_with_champion": "auto"}, publish={"store": str(folder)}
        )
        answer = cli("check", pipeline)
        assert answer.returncode == 0, answer.stdout
        assert states(answer.stdout)["blending"] == "note"
        assert noted in answer.stdout
        assert quiet not in answer.stdout
