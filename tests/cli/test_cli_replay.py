"""``retrainer replay`` on histories that the steps' own code wrote: by their own policies, by others, and damaged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.nights import CHANNEL, MODEL, Nights, export_of
from retrainer.artifacts.evaluation import DriftMeasure
from retrainer.cli import app
from retrainer.errors import RetrainerError
from retrainer.gate.receipt import Receipt
from retrainer.store import Cause

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

DOES_NOT_HOLD = 4
ROWS = 600
# Wide enough for 600 rows to tell something.
GATE: dict[str, Any] = {"floors": {"accuracy": 0.6}, "against_champion": {"margin": 0.06}}
SUPERIORITY = {"floors": {"accuracy": 0.6}, "against_champion": {"mode": "superiority"}}

Ints = np.ndarray[Any, np.dtype[np.int64]]


def wrong(count: int, seed: int = 0) -> Ints:
    """So many of the rows that are hard for all models."""
    return np.random.default_rng(seed).permutation(ROWS // 4)[:count]


# Name, how many rows are wrong, with which seed.
CHALLENGERS = [
    ("a", 60, 0),
    ("b", 66, 1),
    ("c", 58, 2),
    ("d", 140, 3),
    ("e", 20, 4),
    ("f", 26, 5),
    ("g", 24, 6),
    ("h", 140, 7),
]


def history(folder: Path, gate: Mapping[str, Any] = GATE) -> tuple[Nights, list[Receipt]]:
    nights = Nights(folder, ROWS, gate)
    return nights, [nights.night(name, wrong(count, seed)) for name, count, seed in CHALLENGERS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """A history that nobody may change."""
    nights, receipts = history(tmp_path_factory.mktemp("history"))
    assert {receipt.verdict for receipt in receipts} == {"promote", "refuse"}
    assert any(receipt.anchor is not None and not receipt.anchor.is_champion for receipt in receipts)
    return nights


@pytest.fixture
def copied(made: Nights, tmp_path: Path) -> Nights:
    """The same to be damaged."""
    shutil.copytree(made.folder, tmp_path / "copy")
    return Nights(tmp_path / "copy", ROWS, GATE)


def called(nights: Nights, *options: object, policy: object = None) -> Any:
    if policy is not None:
        file = nights.folder / "other.yaml"
        file.write_text(json.dumps(policy))
        options = (*options, "--policy", file)
    arguments = ["replay", nights.store, MODEL, "--artifacts", nights.root, *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def replayed(nights: Nights, *options: object, policy: object = None, exit_code: int = 0) -> dict[str, Any]:
    answer = called(nights, "--json", *options, policy=policy)
    assert answer.exit_code == exit_code, (answer.output, answer.exception)
    said: dict[str, Any] = json.loads(answer.stdout)
    assert said["holds"] is (exit_code == 0)
    return said


def fails(nights: Nights, *options: object, policy: object = None) -> str:
    answer = called(nights, *options, policy=policy)
    assert isinstance(answer.exception, RetrainerError), answer.output
    return str(answer.exception)


def verdicts(said: dict[str, Any], which: str = "replayed") -> list[str]:
    return [night[which] for night in said["decisions"]]


def live(said: dict[str, Any], which: str = "live_replayed") -> list[str | None]:
    """The export artifact that was live after each night."""
    return [night[which] and night[which]["export"] for night in said["decisions"]]


# By the policy that it was decided with


def test_the_same_policy_gives_the_same_bytes(cli: Cli, made: Nights) -> None:
    answer = cli("replay", made.store, MODEL, "--artifacts", made.root)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.splitlines()[-1] == "all 8 receipts are identical: the history holds"
    said = replayed(made)
    assert [night["equal"] for night in said["decisions"]] == [True] * 8
    assert verdicts(said) == verdicts(said, "recorded")
    assert live(said) == live(said, "live_recorded")


def test_also_where_it_is_given(made: Nights) -> None:
    for policy in (GATE, {"gate": GATE}):
        said = replayed(made, policy=policy)
        assert [night["equal"] for night in said["decisions"]] == [True] * 8
        assert (said["stop"], said["comparison"], said["mean_difference"]) == (None, None, 0.0)


def test_policies_that_changed_rows_that_grew_and_a_challenger_that_nobody_approved(tmp_path: Path) -> None:
    nights = Nights(tmp_path, ROWS, GATE)
    nights.night("a", wrong(60), rows=np.arange(400))
    nights.night("b", wrong(50, 1), rows=np.arange(500), publish=False)
    by_itself = {**GATE, "over_time": {"control": "none"}}
    nights.night("b", wrong(50, 1), rows=np.arange(500), gate=by_itself, publish=False)  # spends more
    nights.night("c", wrong(52, 2), rows=np.arange(500), gate=SUPERIORITY)
    nights.night("c", wrong(52, 2), rows=np.arange(500))  # spends the same
    nights.night("e", wrong(30, 3))
    assert [night["equal"] for night in replayed(nights)["decisions"]] == [True] * 6
    said = replayed(nights, policy=GATE)
    assert [night["equal"] for night in said["decisions"]] == [True, True, None, None, True, True]
    assert live(said) == live(said, "live_recorded")  # nobody approved b in the replay either


def test_in_a_bucket(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    nights = Nights(tmp_path, ROWS, GATE, root=f"s3://{s3_bucket}/artifacts")
    nights.night("a", wrong(60))
    nights.night("b", wrong(66, 1))
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "another-cache"))
    assert [night["equal"] for night in replayed(nights)["decisions"]] == [True] * 2
    assert verdicts(replayed(nights, policy=SUPERIORITY)) == ["promote", "refuse"]


def edit_receipt(nights: Nights) -> None:
    receipt = sorted((Path(nights.root) / "decide").glob("*/receipt.json"))[0]
    receipt.write_text(receipt.read_text().replace('"margin": 0.06', '"margin": 0.07'))


def edit_predictions(nights: Nights) -> None:
    file = sorted((Path(nights.root) / "evaluate").glob("*/predictions/fp32.parquet"))[0]
    file.write_bytes(file.read_bytes() + b" ")


def edit_last_verdict(nights: Nights) -> None:
    """The one entry that no other names."""
    entry = sorted((nights.store / MODEL / "decisions").iterdir())[-1]
    assert '"worse_than_champion"' in entry.read_text()
    entry.write_text(entry.read_text().replace('"worse_than_champion"', '"insufficient_rows"'))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (edit_receipt, "receipt exchanged: entry .* of the ledger has another one"),
        (edit_predictions, "predictions changed: predictions/fp32.parquet has sha256"),
        (edit_last_verdict, "ledger altered: entry 24 says refuse"),
    ],
)
def test_what_does_not_hold(copied: Nights, act: Callable[[Nights], None], words: str) -> None:
    act(copied)
    said = replayed(copied, exit_code=DOES_NOT_HOLD)
    found = [problem for night in said["decisions"] for problem in night["problems"]]
    assert any(re.search(words, problem) for problem in found), found
    assert sum(night["equal"] for night in said["decisions"]) == 7
    shown = called(copied)
    assert shown.exit_code == DOES_NOT_HOLD
    assert shown.stdout.splitlines()[-1] == "the history does not hold"


def test_evidence_that_was_altered_decides_nothing_by_another_policy(copied: Nights) -> None:
    edit_predictions(copied)
    said = replayed(copied, policy=SUPERIORITY, exit_code=DOES_NOT_HOLD)
    assert "predictions changed" in said["stop"]["why"]


# By another policy


NO_ANCHOR = {"against_champion": {"margin": 0.2}, "anchor": None}


@pytest.mark.parametrize(
    ("record", "policy"),
    [
        (GATE, SUPERIORITY),
        (GATE, {"floors": {"accuracy": 0.95}, "against_champion": {"margin": 0.06}}),
        (GATE, {"against_champion": {"margin": 0.06}, "over_time": {"control": "none"}}),
        (GATE, {"against_champion": {"margin": 0.2}, "over_time": {"control": "fdr"}, "anchor": {"max_loss": 0.09}}),
        (GATE, NO_ANCHOR),
        (GATE, {"against_champion": None, "floors": {"accuracy": 0.8}}),
        (NO_ANCHOR, GATE),
        (SUPERIORITY, GATE),
    ],
)
def test_as_if_it_had_been_the_policy_all_along(
    tmp_path: Path, record: Mapping[str, Any], policy: Mapping[str, Any]
) -> None:
    """The oracle is a history that was decided by that policy, with its own evaluations."""
    real, receipts = history(tmp_path / "real", policy)
    said = replayed(history(tmp_path / "other", record)[0], policy=policy)
    assert said["stop"] is None
    assert verdicts(said) == [receipt.verdict for receipt in receipts]
    for night, receipt in zip(said["decisions"], receipts, strict=True):
        assert [reason["code"] for reason in night["reasons"]] == [reason.code.value for reason in receipt.reasons]
        assert night["level"] == (receipt.spending.level if receipt.spending else None)
    champion = real.model.champion(CHANNEL)
    assert champion is not None
    assert live(said)[-1] == champion.artifacts["export"]
    assert live(said) == live(replayed(real))


def test_what_it_would_have_cost(cli: Cli, made: Nights) -> None:
    said = replayed(made, policy=SUPERIORITY)
    assert live(said) != live(said, "live_recorded")
    on = next(night for night in said["decisions"] if night["entry"] == said["compared_on"])
    names = {export_of(name): count for name, count, _ in CHALLENGERS}
    lost = names[on["live_recorded"]["export"]] - names[on["live_replayed"]["export"]]
    assert said["comparison"]["estimate"] == pytest.approx(lost / ROWS) == on["difference"]
    assert said["comparison"]["low"] < said["comparison"]["estimate"] < said["comparison"]["high"]
    each = [
        (names[there] - names[here]) / ROWS
        for there, here in zip(live(said, "live_recorded"), live(said), strict=True)
        if there is not None and here is not None
    ]
    assert said["mean_difference"] == pytest.approx(sum(each) / len(each))
    answer = cli("replay", made.store, MODEL, "--artifacts", made.root, "--policy", made.folder / "other.yaml")
    for words in ("promoted only by the record", "accuracy, replay less record", "mean over nights", "instead of"):
        assert words in answer.stdout


def test_it_stops_where_nobody_asked_its_champion(tmp_path: Path) -> None:
    """'b' goes live by the other policy only, and is asked nothing when rows come in."""
    nights = Nights(tmp_path, ROWS, SUPERIORITY)
    nights.night("a", wrong(60), rows=np.arange(500))
    nights.night("b", wrong(60, 1), rows=np.arange(500))
    nights.night("c", wrong(58, 2), rows=np.arange(499, -1, -1))
    nights.night("d", wrong(61, 3))
    policy = {"against_champion": {"margin": 0.2}, "anchor": None}
    said = replayed(nights, policy=policy)
    assert verdicts(said) == ["promote"] * 3
    assert said["stop"]["role"] == "champion"
    assert said["stop"]["model"] == {"version": None, "export": export_of("c")}
    assert (said["stop"]["entry"], said["stop"]["rows"], said["stop"]["lacking"]) == (12, 600, 100)
    shown = called(nights, policy=policy)
    name = export_of("c")[:12]
    assert (
        f"the champion would be {name} (unpublished), and 100 of the 600 rows lack its answers (entry 8 asked it the "
        "most of them)"
    ) in shown.stdout


def test_answers_count_by_the_labels_of_the_night(tmp_path: Path) -> None:
    wide = {"against_champion": {"margin": 0.2}, "anchor": None}

    def with_corrections(folder: Path, gate: Mapping[str, Any]) -> Nights:
        nights = Nights(folder, ROWS, gate)
        nights.night("a", wrong(60))
        nights.night("b", wrong(60, 1))
        nights.labels[ROWS // 2 : ROWS // 2 + 70] ^= 1
        nights.night("c", wrong(62, 2))
        return nights

    said = replayed(with_corrections(tmp_path / "one", SUPERIORITY), policy=wide)
    real = replayed(with_corrections(tmp_path / "two", wide))
    assert (live(said), verdicts(said)) == (live(real), ["promote"] * 3)
    assert said["decisions"][2]["level"] == real["decisions"][2]["level"]


def test_it_stops_where_the_labels_are_others(tmp_path: Path) -> None:
    nights = Nights(tmp_path, ROWS, SUPERIORITY)
    nights.night("a", wrong(60))
    nights.night("b", wrong(60, 1))
    nights.night("c", wrong(60, 2), labels=("World", "Games"))
    said = replayed(nights, policy={"against_champion": {"margin": 0.2}})
    assert said["stop"]["lacking"] == ROWS
    assert "asked it for other labels" in said["stop"]["why"]


def test_what_was_measured_beside_the_recorded_champion_only_is_left_out_and_said(tmp_path: Path) -> None:
    gate = {
        **SUPERIORITY,
        "drift": {"block": {"labels": 0.3}},
        "budgets": {"max_latency_ratio": 2, "max_size_ratio": 2},
    }
    measured = DriftMeasure(kind="labels", measure="label shares", distance=0.9, method="total variation", p_value=0.0)
    nights = Nights(tmp_path, ROWS, gate)
    nights.night("a", wrong(60))
    nights.night("b", wrong(60, 1), drift=(measured.model_copy(update={"p_value": 1.0}),))
    nights.night("c", wrong(60, 2), drift=(measured,))
    assert verdicts(replayed(nights), "recorded")[2] == "refuse"
    wide = {**gate, "against_champion": {"margin": 0.2}}
    said = replayed(nights, policy=wide)
    assert verdicts(said) == ["promote"] * 3
    assert said["decisions"][1]["notes"] == []
    (note,) = said["decisions"][2]["notes"]
    assert note == (
        "not judged, since it was measured against the recorded champion only: budgets.max_latency_ratio, "
        "drift.block.labels"
    )
    assert f"{note} (entry 9)" in called(nights, policy=wide).stdout
    tight = {**wide, "budgets": {"max_size_ratio": 0.5}}
    codes = [[reason["code"] for reason in night["reasons"]] for night in replayed(nights, policy=tight)["decisions"]]
    assert codes == [[], ["budget_exceeded"], ["drift_blocked", "budget_exceeded"]]


def test_a_metric_that_nobody_asked_for_follows_from_the_answers(made: Nights) -> None:
    said = replayed(made, policy={"against_champion": {"metric": "mcc", "margin": 0.1}, "floors": {"f1": 0.6}})
    assert said["metric"] == "mcc"
    assert not any(night["unmeasured"] for night in said["decisions"])
    by_region = replayed(made, policy={**GATE, "slices": {"by": ["region"]}})["decisions"]
    assert by_region[0]["unmeasured"] is False  # there is no champion to lose to
    assert by_region[1]["unmeasured"] is True
    said = called(made, policy={**GATE, "budgets": {"min_rows_per_second": 10}}).stdout
    assert "refused for nothing but what this history did not measure (entry 3 and" in said


def test_moves_of_people(tmp_path: Path) -> None:
    nights = Nights(tmp_path, ROWS, GATE)
    nights.night("a", wrong(60))
    first = nights.model.champion(CHANNEL)
    assert first is not None
    nights.night("b", wrong(62, 1))
    nights.model.rollback(CHANNEL, actor="ada", reason="it was wrong", cause=Cause.UNSPECIFIED)
    nights.night("c", wrong(50, 2))
    nights.model.pin_anchor(CHANNEL, first.version, actor="ada", reason="why not", cause=Cause.UNSPECIFIED)
    nights.model.promote(CHANNEL, version=first.version, actor="ada", reason="back")
    nights.night("d", wrong(55, 3))
    assert [night["equal"] for night in replayed(nights)["decisions"]] == [True] * 4
    a, c, d = map(export_of, "acd")
    said = replayed(nights, policy=GATE)
    assert [night["equal"] for night in said["decisions"]] == [True] * 4
    assert live(said) == live(said, "live_recorded") == [a, a, a, d]
    said = replayed(nights, policy=SUPERIORITY)
    assert live(said) == [a, a, a, a]
    assert said["decisions"][2]["notes"] == ["move 3 rolled back from a model that would not have been live: left out"]
    assert c not in live(said)


# From when on


def test_since(made: Nights) -> None:
    times = [night["at"] for night in replayed(made)["decisions"]]
    said = replayed(made, "--since", times[4], policy=SUPERIORITY)
    assert [night["at"] for night in said["decisions"]] == times[4:]
    # What was before is as it was recorded.
    assert said["decisions"][0]["equal"] is None
    assert [night["equal"] for night in replayed(made, "--since", times[4], policy=GATE)["decisions"]] == [True] * 4
    assert len(replayed(made, "--since", "2020-01-01")["decisions"]) == len(times)


def test_since_a_time_that_nothing_is_of(made: Nights) -> None:
    for since, words in (("2999-01-01", "is yet to come"), ("yesterday", "is not a time")):
        answer = called(made, "--since", since)
        assert answer.exit_code == 2
        assert words in " ".join(answer.output.replace("│", " ").split())
    last = replayed(made)["decisions"][-1]["at"]
    after = f"{last[:19]}.999999+00:00"
    assert "no decision of the channel 'production' was taken since" in fails(made, "--since", after)


# What cannot be replayed


def test_missing_artifacts(copied: Nights) -> None:
    nights = replayed(copied)["decisions"]
    shutil.rmtree(Path(copied.root) / "decide" / nights[1]["decision"])
    said = fails(copied)
    assert f"the artifacts of 1 of 8 decisions are missing: decide {nights[1]['decision'][:12]} (entry 6)" in said
    since = re.search(r"--since (\S+) replays the last 6", said)
    assert since is not None
    assert len(replayed(copied, "--since", since[1])["decisions"]) == 6
    assert len(replayed(copied, policy=SUPERIORITY)["decisions"]) == 8  # needs no receipts
    shutil.rmtree(Path(copied.root) / "evaluate")
    assert "the artifacts of 8 of 8 decisions are missing: evaluate" in fails(copied, policy=SUPERIORITY)
    assert "and 3 more" in fails(copied)


def test_a_ledger_that_was_altered_or_cut(copied: Nights) -> None:
    ledger = sorted((copied.store / MODEL / "decisions").iterdir())
    text = ledger[2].read_text()
    ledger[2].write_text(text.replace("scheduler", "nobody"))
    assert "entry 3 of the ledger does not continue the one before it" in fails(copied)
    ledger[2].write_text(text)
    for entry in ledger[-9:]:
        entry.unlink()
    assert "names an entry of the ledger that is not there: its end was cut off" in fails(copied)
    shutil.rmtree(ledger[0].parent)
    assert "holds no decision of the channel 'production'" in fails(copied)


def test_no_such_channel(made: Nights) -> None:
    assert "it holds decisions of: production" in fails(made, "--channel", "staging")
    assert "no model 'olds'" in str(
        CliRunner().invoke(app, ["replay", str(made.store), "olds", "--artifacts", str(made.root)]).exception
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gate: {floors: {accuracy: 85}}", r"other.yaml:1: gate.floors.accuracy: 85 is out of reach"),
        ("floors: {accuracy: 0.8}\nflors: {}", r"other.yaml:2: .*unknown key.*flors"),
        ("against_champion:\n  margn: 0.1", r"other.yaml:2: .*unknown key 'margn'"),
        ("gate:\n  against_champion: {metric: acuracy}", r"other.yaml:2: .*acuracy"),
        ("- floors", "expected keys such as 'gate: ...'"),
        ("gate: {", r"other.yaml:2: not valid YAML"),
    ],
)
def test_a_policy_that_cannot_be_read(made: Nights, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(text)
    assert re.search(words, fails(made, "--policy", file))
    assert "no such file" in fails(made, "--policy", tmp_path / "nowhere.yaml")


def test_the_gate_of_a_pipeline_file(made: Nights, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    pipeline = {"name": "x", "dataset": {"train": "a.csv"}, "model": {"base": "b"}, "publish": {"store": "s"}}
    file.write_text(json.dumps({**pipeline, "gate": GATE}))
    assert all(night["equal"] for night in replayed(made, "--policy", file)["decisions"])
