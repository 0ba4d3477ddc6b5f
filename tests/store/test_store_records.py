"""The records of a store: what they refuse, what their digests depend on, what a history says about going back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retrainer.errors import IntegrityError
from retrainer.store import BundleInfo, Cause, FileEntry, GoldenRow, Manifest, Move, PrecisionEntry
from retrainer.store.store import champion_before, line_of_champions

MakeBundle = Callable[[str], tuple[Path, Manifest]]


def test_the_version_is_the_content(bundle: MakeBundle) -> None:
    _, manifest = bundle("one")
    assert len(manifest.version) == 16
    assert Manifest.from_json(manifest.to_pretty_json(), where="x") == manifest
    assert Manifest.from_json(manifest.to_json(), where="x").version == manifest.version
    assert manifest.size == sum(entry.size for entry in manifest.files.values())
    changes: list[dict[str, Any]] = [
        {"labels": ("Sports", "World")},
        {"metrics": {"accuracy": 0.91}},
        {"git_commit": "abc"},
        {"files": manifest.files | {"x": FileEntry(size=0, sha256="0" * 64)}},
    ]
    versions = {manifest.model_copy(update=change).version for change in changes}
    assert len(versions | {manifest.version}) == len(changes) + 1
    reordered = manifest.model_copy(update={"files": dict(reversed(manifest.files.items()))})
    assert reordered.version == manifest.version


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "", "a//b", "./a", "a\\b", "manifest.json", "a/", ".."])
def test_a_file_of_a_version_stays_within_it(bundle: MakeBundle, name: str) -> None:
    document = bundle("one")[1].model_dump()
    document["files"][name] = {"size": 0, "sha256": "0" * 64}
    with pytest.raises(ValidationError):
        Manifest.model_validate(document)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"accuracy": float("nan")}},
        {"precisions": {"fp32": PrecisionEntry(file="onnx/other.onnx", weight_types={})}},
        {"surplus": 1},
    ],
)
def test_a_manifest_that_cannot_be(bundle: MakeBundle, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate(bundle("one")[1].model_dump() | change)


def test_bundle_records_survive_their_json() -> None:
    info = BundleInfo(
        task="text-classification",
        labels=("no", "yes"),
        max_length=64,
        inputs=("input_ids", "attention_mask"),
        pad_token_id=0,
        precisions={"fp32": PrecisionEntry(file="onnx/model.onnx", weight_types={"FLOAT": 2})},
        tie_margin=1e-4,
    )
    assert BundleInfo.from_json(info.to_json(), where="x") == info
    row = GoldenRow(text="trail ümlaut\n", text_pair=None, logits={"fp32": (0.1, -1.5)})
    assert GoldenRow.from_json(row.to_json(), where="x") == row
    assert b"\n" not in row.to_json()


def named(short: str) -> str:
    return short.encode().hex().zfill(16)


def entries(moves: list[tuple[str, str]]) -> list[Move]:
    """A history, newest first, of actions and the versions that they went to, by short names."""
    chain: list[Move] = []
    for number, (action, version) in enumerate(moves):
        chain.append(
            Move(
                previous="0" * 64 if number else None,
                sequence=number + 1,
                model="news",
                channel="production",
                action=action,
                origin="0" * 64 if number else None,
                from_version=chain[-1].to_version if chain else None,
                to_version=named(version),
                manifest_sha256="1" * 64,
                actor="ada",
                reason="",
                decision=None,
                anchor=named(version),
                ledger=None,
                at="2030-01-01T00:00:00.000000+00:00",
            )
        )
    return chain[::-1]


@pytest.mark.parametrize(
    ("moves", "line"),
    [
        ("", ""),
        ("+a", "a"),
        ("+a +b +c", "abc"),
        ("+a +b +c -b", "ab"),
        ("+a +b +c -b -a", "a"),
        ("+a +b +c -a", "a"),
        ("+a +b -a +c", "ac"),
        ("+a +b +a", "aba"),
        ("+a +b +a -b", "ab"),
        ("+a +b -x", "abx"),
        ("+a +b -x -b", "ab"),
        ("+a +b -x -a", "a"),
        ("+a +b +c -a -c", "ac"),
        ("+a +b +c -a -c -a", "a"),
        ("+a +b =b", "ab"),
        ("+a =a +b =b -a =a", "a"),
        ("+a +b -x =x -b =b", "ab"),
    ],
)
def test_where_rollbacks_lead(moves: str, line: str) -> None:
    actions = {"+": "publish", "-": "rollback", "=": "sign"}
    assert line_of_champions(entries([(actions[move[0]], move[1]) for move in moves.split()])) == [
        named(letter) for letter in line
    ]


def test_the_causes_are_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "store.md").read_text()
    table = page.partition("| cause | meaning |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert {word.strip("`"): meaning for word, meaning in rows} == {cause.value: cause.meaning for cause in Cause}


@given(st.lists(st.tuples(st.sampled_from(["publish", "promote", "rollback"]), st.sampled_from("abcd"))))
def test_any_line_ends_at_the_champion_and_rollbacks_come_to_an_end(moves: list[tuple[str, str]]) -> None:
    sound = [("publish", "a"), *moves]
    line = line_of_champions(entries(sound))
    assert line[-1] == named(sound[-1][1])
    assert len(line) <= len(sound)
    while len(line) > 1:
        sound.append(("rollback", bytes.fromhex(line[-2]).decode().lstrip("\0")))
        shorter = line_of_champions(entries(sound))
        assert shorter == line[:-1] or (len(shorter) < len(line) and shorter[-1] == line[-2])
        line = shorter


@given(st.lists(st.tuples(st.sampled_from(["publish", "promote", "rollback"]), st.sampled_from("abcd"))))
def test_the_champion_before_is_found_from_the_newest_entries(moves: list[tuple[str, str]]) -> None:
    chain = entries([("publish", "a"), *moves])
    line = line_of_champions(chain)
    assert champion_before(iter(chain)) == (line[-2] if len(line) > 1 else None)


def test_no_more_of_the_history_is_read_than_a_rollback_takes() -> None:
    read: list[int] = []

    def reading(chain: list[Move]) -> Iterator[Move]:
        for entry in chain:
            read.append(entry.sequence)
            yield entry

    published = [("publish", f"{number}") for number in range(1000)]
    assert champion_before(reading(entries(published))) == named("998")
    assert len(read) == 2
    read.clear()
    back = [("rollback", f"{number}") for number in range(998, 989, -1)]
    assert champion_before(reading(entries(published + back))) == named("989")
    assert len(read) <= 64


@pytest.mark.parametrize("version", ["../../../etc", "/tmp/elsewhere", "0123", "0" * 16 + "\n", "A" * 16, ""])
def test_a_move_cannot_lead_elsewhere(version: str) -> None:
    """Readers make paths of a version before they have looked at anything else."""
    move = entries([("publish", "a"), ("publish", "b")])[0].model_dump(mode="json")
    for field in ("from_version", "to_version"):
        with pytest.raises(IntegrityError, match="not a valid Move"):
            Move.from_json(json.dumps({**move, field: version}), where="x")


@pytest.mark.parametrize("field", ["previous", "origin", "from_version"])
def test_only_the_first_move_has_none_before_it(field: str) -> None:
    second, first = (move.model_dump(mode="json") for move in entries([("publish", "a"), ("publish", "b")]))
    for move in ({**second, field: None}, {**first, field: second[field]}, {**first, "sequence": 2}):
        with pytest.raises(IntegrityError, match="only the first move has none before it"):
            Move.from_json(json.dumps(move), where="x")
    with pytest.raises(IntegrityError, match="signing or pinning an anchor changes no version"):
        Move.from_json(json.dumps({**second, "action": "sign"}), where="x")
