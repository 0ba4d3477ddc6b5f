"""The page of what a model learnt from: the snapshots of its last decisions, and one of them in full.

A snapshot is shown only where a decision about the model names it: artifacts are shared, and what others learnt from
is for others. Texts of rows that were set aside are only in what a visitor gets who may read them. Not here: how it
is drawn (``data_drawn.py``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import partial

from pydantic import Field

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import QUARANTINE, SnapshotStatistics
from retrainer.artifacts.training import CutRows, TrainingRecord
from retrainer.console.decision import DIGEST, read_receipt, refuse_other_than_digest, texts_shown
from retrainer.console.host import Shown
from retrainer.console.overview import published_by
from retrainer.console.stores import Problem, Stores
from retrainer.errors import ArtifactError, IntegrityError, NotFoundError
from retrainer.gate.receipt import Receipt
from retrainer.records import Record
from retrainer.report.figures import megabytes
from retrainer.report.flips import cut
from retrainer.store.parallel import in_parallel
from retrainer.store.summary import ChannelSummary

# Decisions whose snapshots are shown; of older ones in the summary a snapshot is shown where it is asked for.
MOST_DECISIONS = 16
# Rows of each reason with their texts.
MOST_ROWS = 8
MOST_BYTES = 50_000_000


class Use(Record):
    """A decision about a challenger that was trained on a snapshot.

    :ivar live_as: the version that it became.
    """

    decision: str
    at: str
    verdict: str
    live_as: str | None


class Snapshot(Record):
    """A snapshot, counted.

    :ivar statistics: ``None`` where it was removed: ``problem`` says so.
    :ivar uses: the newest first.
    """

    digest: str
    made_at: str | None
    statistics: SnapshotStatistics | None
    uses: tuple[Use, ...]
    problem: str | None = None

    @property
    def quarantined(self) -> int:
        """Rows that were set aside."""
        return sum(self.statistics.quarantined.values()) if self.statistics is not None else 0


class SetAside(Record):
    """A row in quarantine.

    :ivar source: split and file; ``row`` its number there.
    """

    source: str
    row: int
    reason: str
    text: str
    label: str | None


class DataPage(Record):
    """The page.

    :ivar snapshots: the newest first; ``shown`` is the one that is shown in full.
    :ivar champion: the snapshot that the champion was trained on.
    :ivar receipt: of the newest decision on the one that is shown: leakage and drift.
    :ivar cut: split to its rows that were too long for the model; empty where nobody counted.
    :ivar set_aside: some rows, for those who may read texts.
    """

    model: str
    channel: str
    dag_id: str
    now: str
    snapshots: tuple[Snapshot, ...] = ()
    shown: Snapshot | None = None
    champion: Snapshot | None = None
    receipt: Receipt | None = None
    cut: dict[str, CutRows] = Field(default_factory=dict)
    set_aside: tuple[SetAside, ...] = ()
    texts: bool
    texts_because: str
    problems: tuple[str, ...] = ()


class _Found(Record):
    """What was read."""

    snapshots: tuple[Snapshot, ...]
    shown: Snapshot | None
    champion: Snapshot | None
    receipt: Receipt | None
    cut: dict[str, CutRows]
    set_aside: tuple[SetAside, ...]
    problems: tuple[str, ...]


def data_page(
    one: Shown,
    channel: str,
    root: str,
    stores: Stores,
    now: str,
    snapshot: str | None,
    decision: str | None,
    *,
    may_read_texts: bool,
) -> DataPage:
    """Read what a model learnt from.

    :param root: of the artifacts.
    :param snapshot: digest of the one to show; the newest unless given.
    :param decision: about the model, on that snapshot; needed where it is older than the summary.
    :raises NotFoundError: no decision about this model names such a snapshot.
    """
    for digest in (snapshot, decision):
        if digest is not None:
            refuse_other_than_digest(digest)
    texts, because = texts_shown(one.pipeline.gate, may_read_texts=may_read_texts, dag_id=one.dag_id)
    key = ("data", root, one.store, one.name, channel, snapshot, decision, texts)
    reading = _Reading(one, channel, root, stores)
    found = stores.ask(root, key, partial(reading.read, snapshot, decision, texts=texts))
    common = {"model": one.name, "channel": channel, "dag_id": one.dag_id, "now": now}
    if isinstance(found, Problem):
        if found.missing:
            raise NotFoundError(found.text)
        problem = f"the artifacts or the store {found.text}" if found.late else found.text
        return DataPage(**common, texts=texts, texts_because=because, problems=(problem,))
    return DataPage(**common, texts=texts, texts_because=because, **dict(found))


class _Reading:
    """Of the snapshots of one model, within a question."""

    def __init__(self, one: Shown, channel: str, root: str, stores: Stores) -> None:
        self._one = one
        self._channel = channel
        self._root = root
        self._stores = stores
        self._artifacts = Artifacts(root)

    def read(self, wanted: str | None, decision: str | None, *, texts: bool) -> _Found:
        channel = self._stores.summary(self._one.store, self._one.name).of(self._channel)
        known = _decisions(channel)
        newest = [*known][:MOST_DECISIONS]
        if decision is not None and decision not in known:
            known[decision] = None
        receipts = self._receipts([*newest, *([decision] if decision is not None else [])])
        if wanted is not None and wanted not in map(_snapshot_of, receipts.values()):
            receipts = self._receipts(known)
        by_snapshot: dict[str, list[str]] = {}
        for name, receipt in receipts.items():
            if (digest := _snapshot_of(receipt)) is not None:
                by_snapshot.setdefault(digest, []).append(name)
        if wanted is not None and wanted not in by_snapshot:
            raise NotFoundError(
                f"no decision about '{self._one.name}' that is kept was made on a snapshot {wanted[:12]}"
            )
        snapshots = {
            digest: self._snapshot(digest, [use for name in names if (use := known[name]) is not None])
            for digest, names in by_snapshot.items()
        }
        live = [one.decision for one in channel.moves if one.to_version == channel.champion and one.decision][:1]
        champion = next((_snapshot_of(receipt) for receipt in self._receipts(live).values()), None)
        shown = wanted or next(iter(by_snapshot), None)
        of_shown = receipts[by_snapshot[shown][0]] if shown is not None else None
        problems: list[str] = []
        listed = {_snapshot_of(receipts[name]) for name in newest if name in receipts} | {shown}
        return _Found(
            snapshots=tuple(found for digest, found in snapshots.items() if digest in listed),
            shown=snapshots[shown] if shown is not None else None,
            champion=snapshots.get(champion) or self._snapshot(champion, []) if champion is not None else None,
            receipt=of_shown,
            cut=self._cut(of_shown),
            set_aside=self._set_aside(shown, problems) if texts and shown is not None else (),
            problems=tuple(problems),
        )

    def _receipts(self, decisions: Iterable[str]) -> dict[str, Receipt]:
        """Of those decisions whose artifacts are still there, in order."""
        names = [*decisions]
        found = in_parallel(self._receipt, names)
        return {name: receipt for name, receipt in zip(names, found, strict=True) if receipt is not None}

    def _receipt(self, decision: str) -> Receipt | None:
        def read() -> Receipt | None:
            try:
                found = read_receipt(self._artifacts, decision)
                receipt = Receipt.from_json(found.data, where=found.where)
            except (NotFoundError, IntegrityError):
                return None
            return receipt if receipt.model == self._one.name else None

        return self._stores.lasting(("receipt of", self._root, decision, self._one.name), read)

    def _snapshot(self, digest: str, uses: list[Use]) -> Snapshot:
        def read() -> Snapshot:
            manifest = self._artifacts.get("ingest", digest)
            content = self._artifacts.read("ingest", digest, SnapshotStatistics.file)
            statistics = SnapshotStatistics.from_json(content, where=f"ingest artifact {digest[:12]}")
            return Snapshot(digest=digest, made_at=manifest.created_at, statistics=statistics, uses=())

        try:
            found = self._stores.lasting(("snapshot", self._root, digest), read)
        except (ArtifactError, IntegrityError, NotFoundError) as error:
            return Snapshot(digest=digest, made_at=None, statistics=None, uses=tuple(uses), problem=error.message)
        return found.model_copy(update={"uses": tuple(uses)})

    def _cut(self, receipt: Receipt | None) -> dict[str, CutRows]:
        """Rows that the training of a challenger cut; none where that is not known."""
        digest = _digest_in(receipt, "train")
        if digest is None or self._artifacts.find("train", digest) is None:
            return {}

        def read() -> dict[str, CutRows]:
            content = self._artifacts.read("train", digest, TrainingRecord.file)
            return TrainingRecord.from_json(content, where=f"train artifact {digest[:12]}").cut

        return self._stores.lasting(("cut", self._root, digest), read)

    def _set_aside(self, snapshot: str, problems: list[str]) -> tuple[SetAside, ...]:
        manifest = self._artifacts.find("ingest", snapshot)
        file = manifest.files.get(QUARANTINE) if manifest is not None else None
        if file is None:
            return ()
        if importlib.util.find_spec("pyarrow") is None:
            problems.append(
                "pyarrow is not installed where this page is made, so the rows that were set aside are not read"
            )
            return ()
        if file.size > MOST_BYTES:
            problems.append(
                f"{QUARANTINE} takes {megabytes(file.size)}, too much for a page: it is in the ingest artifact"
            )
            return ()

        def read() -> tuple[SetAside, ...]:
            from retrainer.artifacts.texts import quarantined_rows

            found = quarantined_rows(self._artifacts.read("ingest", snapshot, QUARANTINE), MOST_ROWS)
            return tuple(
                SetAside(reason=reason, source=row["source"], row=row["row"], text=cut(row["text"]), label=row["label"])
                for reason, rows in found.items()
                for row in rows
            )

        return self._stores.lasting(("set aside", self._root, snapshot), read)


def _decisions(channel: ChannelSummary) -> dict[str, Use | None]:
    """Every decision that the summary knows, the newest first; ``None`` where it knows only of the move."""
    known: dict[str, Use | None] = {}
    for one in channel.decisions:
        live = published_by(channel, one.decision)
        version = live.to_version if live else None
        known[one.decision] = Use(decision=one.decision, at=one.at, verdict=one.verdict, live_as=version)
    for move in channel.moves:
        if move.decision is not None:
            live_as = Use(decision=move.decision, at=move.at, verdict="promote", live_as=move.to_version)
            known.setdefault(move.decision, live_as)
    return known


def _snapshot_of(receipt: Receipt | None) -> str | None:
    return _digest_in(receipt, "ingest")


def _digest_in(receipt: Receipt | None, step: str) -> str | None:
    """What a receipt says, where it can name an artifact."""
    digest = receipt.digests.get(step, "") if receipt is not None else ""
    return digest if DIGEST.fullmatch(digest) else None
