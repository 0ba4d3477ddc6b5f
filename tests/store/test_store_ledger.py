"""The ledger of decisions: written once, chained, named by moves; whatever is done to it is found."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from retrainer.errors import ChampionChanged, IntegrityError, UserError
from retrainer.store import Cause, Manifest, ModelStore, Store
from retrainer.store.entry import Answer, Entry, Event, Look, Spent, Verdict
from retrainer.store.fsck import check_store
from retrainer.store.ledger import RowSet
from tests.store.test_store_fsck import Locked

MakeBundle = Callable[[str], tuple[Path, Manifest]]
A, B = "a" * 64, "b" * 64


def row_set(first: int, count: int) -> RowSet:
    return RowSet(b"".join(number.to_bytes(8, "big") for number in range(first, first + count)))


def look(challenger: str = A, rows: RowSet | None = None) -> Look:
    rows = rows or row_set(0, 4)
    return Look(channel="production", challenger=challenger, evaluation=B, rows=rows.sha256, row_count=len(rows))


def add(model: ModelStore, event: Event) -> Entry:
    entry = model.ledger.append(model.ledger.entries(), event, actor="ada", run="one")
    assert entry is not None
    return entry


def spent(of: int) -> Spent:
    return Spent(
        channel="production",
        look=of,
        evaluation=B,
        champion="0" * 16,
        anchor=None,
        metric="accuracy",
        standing=A,
        level=0.01,
    )


def verdict(of: int) -> Verdict:
    return Verdict(channel="production", spent=of, decision=A, receipt=B, verdict="refuse", reasons=("worse",))


def fill(model: ModelStore, bundle: MakeBundle) -> None:
    """Two decisions, of which the second was published."""
    for number, challenger in enumerate((A, B)):
        rows = row_set(number, 4)
        model.ledger.put_rows(rows)
        seen = add(model, look(challenger, rows))
        add(model, verdict(add(model, spent(seen.sequence)).sequence))
    folder, manifest = bundle("one")
    model.publish(folder, manifest, channel="production", actor="ada", reason="", decision=None, expected=None)
    add(model, look("c" * 64, row_set(1, 4)))


@pytest.fixture
def model(store_url: str) -> ModelStore:
    return Store.open(store_url).model("news")


def test_entries_are_chained_and_read_back(model: ModelStore, bundle: MakeBundle) -> None:
    assert model.ledger.entries() == []
    assert model.ledger.newest() is None
    fill(model, bundle)
    entries = model.ledger.entries()
    assert [entry.event.kind for entry in entries] == ["look", "spent", "verdict"] * 2 + ["look"]
    assert all(after.previous == before.sha256 for before, after in itertools.pairwise(entries))
    assert model.ledger.newest() == entries[-1].sha256
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.ledger == entries[5].sha256
    assert model.ledger.rows(row_set(1, 4).sha256).numbers().tolist() == [1, 2, 3, 4]
    assert check_store(model._storage).findings == ()


def test_of_several_writers_one_gets_the_next_number(model: ModelStore) -> None:
    before = model.ledger.entries()
    written: list[Entry | None] = []
    together = threading.Barrier(4)

    def write(number: int) -> None:
        together.wait(60)
        written.append(model.ledger.append(before, look(f"{number:064x}"), actor="ada", run=str(number)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [entry for entry in written if entry is not None]
    assert model.ledger.entries() == won
    assert len(won) == 1


# What somebody does to the ledger: a folder of the store, to the codes and words of fsck.
def delete_middle(ledger: Path) -> None:
    (ledger / "0000000003.json").unlink()


def cut_tail(ledger: Path) -> None:
    for number in (5, 6, 7):
        (ledger / f"{number:010d}.json").unlink()


def delete_all(ledger: Path) -> None:
    shutil.rmtree(ledger)


def edit(ledger: Path) -> None:
    path = ledger / "0000000003.json"
    path.write_text(path.read_text().replace('"refuse"', '"promote"'))


def edit_newest_named(ledger: Path) -> None:
    path = ledger / "0000000006.json"
    path.write_text(path.read_text().replace('"refuse"', '"promote"'))


def reformat(ledger: Path) -> None:
    path = ledger / "0000000002.json"
    path.write_text(path.read_text() + " ")


def replay(ledger: Path) -> None:
    shutil.copy(ledger / "0000000002.json", ledger / "0000000005.json")


def copy_to_the_end(ledger: Path) -> None:
    shutil.copy(ledger / "0000000001.json", ledger / "0000000008.json")


def delete_rows(ledger: Path) -> None:
    for path in (ledger.parent / "rows").iterdir():
        path.unlink()


def edit_rows(ledger: Path) -> None:
    for path in (ledger.parent / "rows").iterdir():
        path.write_bytes(b"\0" * 8)


def forge_far_away(ledger: Path) -> None:
    shutil.copy(ledger / "0000000001.json", ledger / "9999999999.json")


@pytest.mark.parametrize(
    ("act", "code", "words"),
    [
        (forge_far_away, "entry-missing", "entries 8 to 9999999998 of the ledger are missing"),
        (delete_middle, "entry-missing", "entry 3 of the ledger is missing, and later ones are there"),
        (cut_tail, "entry-missing", "its end was cut off, or an older state was put back"),
        (delete_all, "entry-missing", "names an entry of the ledger that is not there"),
        (edit, "entry-altered", "entry 3 of the ledger was altered: its hash is not the one that the next entry names"),
        (edit_newest_named, "entry-altered", "entry 6 of the ledger was altered"),
        (reformat, "entry-altered", "says the same in other bytes than were written"),
        (replay, "entry-altered", "is entry 2 of the ledger of 'news': a copy of it was put here"),
        (copy_to_the_end, "entry-altered", "is entry 1 of the ledger of 'news': a copy of it was put here"),
        (delete_rows, "rows-missing", "a set of test rows that the ledger names is missing"),
        (edit_rows, "rows-altered", "a set of test rows was altered"),
    ],
)
def test_what_is_done_to_it_is_found(
    tmp_path: Path, bundle: MakeBundle, act: Callable[[Path], None], code: str, words: str
) -> None:
    store = Store.open(tmp_path / "store")
    fill(store.model("news"), bundle)
    act(tmp_path / "store" / "news" / "decisions")
    found = check_store(store._storage)
    assert not found.sound
    assert any(one.code == code and words in one.message for one in found.findings), found.findings


@pytest.mark.parametrize("wrong", [{"to": 1}, {"decision": "c" * 64}, {"channel": "staging"}])
def test_an_answer_that_is_to_no_such_verdict_is_found(
    model: ModelStore, bundle: MakeBundle, wrong: dict[str, object]
) -> None:
    fill(model, bundle)
    said = Answer(channel="production", to=6, decision=A, answer="reject", reason="too eager")
    add(model, said)
    assert check_store(model._storage).findings == ()
    number = add(model, said.model_copy(update=wrong)).sequence
    (found,) = check_store(model._storage).findings
    assert found.code == "entry-altered"
    assert f"entry {number} of the ledger names entry" in found.message


def test_rows_that_may_not_be_read_are_a_finding(tmp_path: Path, bundle: MakeBundle) -> None:
    store = Store.open(tmp_path / "store")
    fill(store.model("news"), bundle)
    rows, *_ = (tmp_path / "store" / "news" / "rows").glob("*.bin")
    found = check_store(Locked(store._storage, f"news/rows/{rows.name}"))
    (finding,) = found.of("damage")
    assert (finding.code, finding.key) == ("object-unreadable", f"news/rows/{rows.name}")
    assert "no permission" in finding.message


@pytest.mark.parametrize("act", [delete_middle, edit, reformat, replay, copy_to_the_end])
def test_whoever_counts_by_it_is_told(tmp_path: Path, bundle: MakeBundle, act: Callable[[Path], None]) -> None:
    model = Store.open(tmp_path / "store").model("news")
    fill(model, bundle)
    act(tmp_path / "store" / "news" / "decisions")
    with pytest.raises(IntegrityError, match=r"entry|altered|put here"):
        model.ledger.entries()


def test_the_anchor_follows_what_was_shown_to_be_better_and_goes_back_with_it(
    model: ModelStore, bundle: MakeBundle
) -> None:
    """First champion; kept by a publication that is only not worse; the better one; and back where that is undone."""

    def publish(content: str, *, better: bool) -> str:
        folder, manifest = bundle(content)
        newest = model.newest_move("production")
        return model.publish(
            folder,
            manifest,
            channel="production",
            actor="ada",
            reason="",
            decision=None,
            expected=newest.to_version if newest else None,
            anchor=better,
        ).version

    def anchor() -> str:
        newest = model.newest_move("production")
        assert newest is not None
        return newest.anchor

    first = publish("1", better=False)
    assert anchor() == first
    second = publish("2", better=False)
    assert anchor() == first
    third = publish("3", better=True)
    assert anchor() == third
    model.rollback("production", actor="ada", reason="it is bad")
    newest = model.newest_move("production")
    assert newest is not None
    assert (newest.to_version, newest.anchor) == (second, first)
    pinned = model.pin_anchor("production", third, actor="ada", reason="it was good", cause=newest.cause)
    assert (pinned.action, pinned.to_version, pinned.from_version, pinned.anchor) == ("anchor", second, second, third)
    assert model.pin_anchor("production", third, actor="ada", reason="again", cause=newest.cause) == pinned
    model.rollback("production", to=first, actor="ada", reason="further")
    assert anchor() == third  # a person pinned it since
    better = publish("4", better=True)
    assert anchor() == better
    model.rollback("production", actor="ada", reason="bad in service")
    assert anchor() == third  # as before it, and not what was undone
    better = publish("5", better=True)
    folder, manifest = bundle("never served")
    model.put_version(folder, manifest)
    model.rollback("production", to=manifest.version, actor="ada", reason="aside")
    assert anchor() == third
    assert model.verify_channel("production") == model.newest_move("production")
    assert check_store(model._storage).sound


def test_a_rollback_points_at_no_anchor_that_is_gone(tmp_path: Path, bundle: MakeBundle) -> None:
    model = Store.open(tmp_path / "store").model("news")
    versions: list[str] = []
    for number in range(3):
        folder, manifest = bundle(str(number))
        expected = versions[-1] if versions else None
        how = {"channel": "production", "actor": "ada", "reason": "", "decision": None, "expected": expected}
        versions.append(model.publish(folder, manifest, anchor=number == 2, **how).version)  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "store" / "news" / "versions" / versions[0])
    model.rollback("production", actor="ada", reason="bad")
    newest = model.newest_move("production")
    assert newest is not None
    assert (newest.to_version, newest.anchor) == (versions[1], versions[1])


def test_what_was_held_against_another_anchor_is_not_published(model: ModelStore, bundle: MakeBundle) -> None:
    """A person pinned one while another waited for approval."""
    folder, manifest = bundle("1")
    how = {"channel": "production", "actor": "ada", "reason": "", "decision": None}
    first = model.publish(folder, manifest, expected=None, **how).version  # type: ignore[arg-type]
    folder, manifest = bundle("2")
    model.put_version(folder, manifest)
    model.pin_anchor("production", manifest.version, actor="ada", reason="", cause=Cause.OTHER)
    folder, manifest = bundle("3")
    with pytest.raises(ChampionChanged, match=r"the anchor changed: it was \w+ and is \w+ now"):
        model.publish(folder, manifest, expected=first, held_against=first, **how)  # type: ignore[arg-type]
    assert model.publish(folder, manifest, expected=first, **how).moved  # type: ignore[arg-type]


@pytest.mark.parametrize("actor", ["x" * 70_000, "\udc80"])
def test_an_entry_that_nobody_could_read_is_not_written(model: ModelStore, actor: str) -> None:
    with pytest.raises(UserError, match="the actor"):
        model.ledger.append([], look(), actor=actor, run="one")
    assert model.ledger.entries() == []


def test_what_lies_below_is_no_entry(tmp_path: Path, bundle: MakeBundle) -> None:
    model = Store.open(tmp_path / "store").model("news")
    fill(model, bundle)
    ledger = tmp_path / "store" / "news" / "decisions"
    (ledger / "backup").mkdir()
    shutil.copy(ledger / "0000000001.json", ledger / "backup")
    assert len(model.ledger.entries()) == 7
    assert {one.code for one in check_store(model._storage).findings} == {"object-unknown"}


def test_a_move_of_before_there_were_anchors_is_told(tmp_path: Path, bundle: MakeBundle) -> None:
    model = Store.open(tmp_path / "store").model("news")
    fill(model, bundle)
    path = tmp_path / "store" / "news" / "channels" / "production" / "0000000001.json"
    path.write_text(path.read_text().replace('"format_version": 3', '"format_version": 2'))
    with pytest.raises(IntegrityError, match="was written by an earlier version of retrainer"):
        model.newest_move("production")
