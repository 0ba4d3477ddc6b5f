"""The summary of a model: what it says, what it costs, and that nothing depends on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrainer.errors import IntegrityError
from retrainer.records import digest_of
from retrainer.storage import open_storage
from retrainer.store import Cause, Manifest, ModelStore, Store
from retrainer.store.entry import Entry, Look, Spent, Verdict
from retrainer.store.ledger import RowSet
from retrainer.store.names import summary_key
from retrainer.store.summary import MOST_KEPT, DecayNote, Figure, Judged, Summary, make_summary, read_summary

if TYPE_CHECKING:
    from tests.store.conftest import Proxy

MakeBundle = Callable[[str], tuple[Path, Manifest]]
SCORES = {"accuracy": Figure(value=0.9, low=0.88, high=0.92)}
ROWS = RowSet(bytes(range(16)))


def publish(model: ModelStore, bundle: tuple[Path, Manifest], scores: dict[str, Figure] | None = None) -> str:
    folder, manifest = bundle
    newest = model.newest_move("production")
    return model.publish(
        folder,
        manifest,
        channel="production",
        actor="ada",
        reason="a test",
        decision=None,
        expected=newest.to_version if newest else None,
        scores=scores,
    ).version


def decide(model: ModelStore, name: str, verdict: str = "promote", reasons: tuple[str, ...] = ()) -> list[Entry]:
    """The three entries of a decision."""
    digest, ledger = digest_of({"name": name}), model.ledger
    look = Look(channel="production", challenger=digest, evaluation=digest, rows=ROWS.sha256, row_count=2)
    entries = ledger.entries()
    for event in (
        look,
        Spent(
            channel="production",
            look=len(entries) + 1,
            evaluation=digest,
            champion=None,
            anchor=None,
            metric=None,
            standing=digest,
            level=None,
        ),
        Verdict.model_validate(
            {
                "channel": "production",
                "spent": len(entries) + 2,
                "decision": digest,
                "receipt": digest,
                "verdict": verdict,
                "reasons": reasons,
            }
        ),
    ):
        entry = ledger.append(entries, event, actor="grace", run="night")
        assert entry is not None
        entries.append(entry)
    return entries


def summary_of(model: ModelStore, url: str) -> Summary:
    found = read_summary(open_storage(url), model.name)
    assert found is not None
    return found


def test_it_says_what_moved_and_what_was_decided(store_url: str, bundle: MakeBundle) -> None:
    model = Store.open(store_url).model("news")
    entries = decide(model, "one")
    model.note_decision(entries, digest_of({"name": "one"}), Judged(metrics=SCORES))
    first = publish(model, bundle("one"), SCORES)
    refused = decide(model, "two", "refuse", ("floor_missed",))
    model.note_decision(refused, digest_of({"name": "two"}), Judged(texts=("accuracy 0.1 is below the floor",)))
    second = publish(model, bundle("two"))
    model.rollback("production", actor="bob", cause=Cause.REGRESSION, reason="sports go to business")
    channel = summary_of(model, store_url).of("production")
    assert channel.champion == first
    assert [(move.action, move.to_version, move.actor) for move in channel.moves] == [
        ("rollback", first, "bob"),
        ("publish", second, "ada"),
        ("publish", first, "ada"),
    ]
    assert channel.moves[0].metrics == SCORES  # of that version, as it was told when it was published
    assert channel.moves[1].metrics == {"accuracy": Figure(value=0.9)}  # of its manifest: nobody told an interval
    newest, oldest = channel.decisions
    assert (newest.verdict, newest.reasons, newest.actor, newest.run) == ("refuse", ("floor_missed",), "grace", "night")
    assert newest.judged == Judged(texts=("accuracy 0.1 is below the floor",))
    assert (oldest.verdict, oldest.judged) == ("promote", Judged(metrics=SCORES))


def test_made_anew_it_is_the_same_but_for_the_words(store_url: str, bundle: MakeBundle) -> None:
    model = Store.open(store_url).model("news")
    model.note_decision(decide(model, "one"), digest_of({"name": "one"}), Judged())
    for name in ("one", "two"):
        publish(model, bundle(name))
    model.promote("staging", from_channel="production", actor="ada", reason="try it")
    written, storage = summary_of(model, store_url), open_storage(store_url)
    known = make_summary(storage, "news", written)
    assert known.channels == written.channels
    without = make_summary(storage, "news").of("production")
    assert without.moves == written.of("production").moves
    assert [one.judged for one in without.decisions] == [None]


@pytest.mark.parametrize("harm", ["gone", "damaged", "another's", "behind"])
def test_the_next_move_mends_it(store_url: str, bundle: MakeBundle, harm: str) -> None:
    model, storage = Store.open(store_url).model("news"), open_storage(store_url)
    publish(model, bundle("one"))
    old = storage.read("news/summary.json")
    publish(model, bundle("two"))
    if harm == "gone":
        storage.delete("news/summary.json")
    else:
        harmed = {"damaged": b"{", "another's": old.replace(b'"news"', b'"mews"'), "behind": old}[harm]
        storage.write("news/summary.json", harmed)
    if harm in {"damaged", "another's"}:
        with pytest.raises(IntegrityError):
            read_summary(storage, "news")
    publish(model, bundle("three"))
    channel = summary_of(model, store_url).of("production")
    assert [move.sequence for move in channel.moves] == [3, 2, 1]
    assert channel.champion == bundle("three")[1].version


def test_signing_and_pinning_leave_the_champion(store_url: str, bundle: MakeBundle) -> None:
    model = Store.open(store_url).model("news")
    version = publish(model, bundle("one"))
    newer = publish(model, bundle("two"))
    model.pin_anchor("production", newer, actor="ada", reason="known good", cause=Cause.OTHER)
    model.rollback("production", actor="bob", reason="was worse")
    channel = summary_of(model, store_url).of("production")
    assert [(move.sequence, move.to_version) for move in channel.moves] == [(4, version), (2, newer), (1, version)]


def test_it_keeps_the_last_moves_only(tmp_path: Path, bundle: MakeBundle) -> None:
    model = Store.open(tmp_path).model("news")
    versions = [publish(model, bundle(name)) for name in ("one", "two")]
    for number in range(MOST_KEPT):
        model.promote("production", version=versions[number % 2], actor="ada", reason="again")
    channel = summary_of(model, str(tmp_path)).of("production")
    assert len(channel.moves) == MOST_KEPT
    assert channel.sequence == channel.moves[0].sequence == 2 + MOST_KEPT


def test_it_takes_two_requests(proxy: Proxy, s3_bucket: str, bundle: MakeBundle) -> None:
    model = Store.open(f"s3://{s3_bucket}").model("news")

    def asked(action: Callable[[], object]) -> list[str]:
        proxy.strike(None)
        action()
        return [call.partition(" ")[0] for call in proxy.calls if call.endswith("/news/summary.json")]

    publish(model, bundle("zero"))
    assert asked(lambda: publish(model, bundle("one"))) == ["GET", "PUT"]
    assert asked(lambda: publish(model, bundle("one"))) == []  # nothing new
    assert asked(lambda: model.newest_move("production")) == []
    entries = decide(model, "one")
    assert asked(lambda: model.note_decision(entries, digest_of({"name": "one"}), Judged())) == ["GET", "PUT"]
    assert len(proxy.calls) == 2


def test_a_summary_that_cannot_be_written_stops_nothing(
    tmp_path: Path, bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    model = Store.open(tmp_path).model("news")
    publish(model, bundle("one"))
    (tmp_path / "news" / "summary.json").unlink()
    (tmp_path / "news" / "summary.json").mkdir()
    with caplog.at_level(logging.WARNING):
        version = publish(model, bundle("two"))
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.to_version == version
    assert "is not refreshed" in caplog.text


def test_a_check_is_kept_beside_moves_and_decisions(store_url: str, bundle: MakeBundle) -> None:
    model = Store.open(store_url).model("news")
    version = publish(model, bundle("a"))
    storage = open_storage(store_url)
    before = read_summary(storage, "news")
    assert before is not None
    assert b"decay" not in before.to_json(), "who knows nothing of checks can read it"
    note = DecayNote(
        version=version,
        check=digest_of({"a": "check"}),
        verdict="holds",
        text="as good as before",
        metric="accuracy",
        drop=Figure(value=0.01, low=-0.01, high=0.03),
        rows=700,
        at="2026-01-01T00:00:00+00:00",
    )
    model.note_decay("production", note)
    publish(model, bundle("b"))
    after = read_summary(storage, "news")
    assert after is not None
    channel = after.of("production")
    assert channel.decay == note
    assert [move.from_version for move in channel.moves] == [version, None]
    # The first thing that is ever noted of a model whose summary is gone.
    storage.delete(summary_key("news"))
    model.note_decay("production", note)
    anew = read_summary(storage, "news")
    assert anew is not None
    assert anew.of("production").decay == note
    assert len(anew.of("production").moves) == 2
