"""The page of what a model learnt from: the snapshots of its last decisions, and one of them in full.

A snapshot is shown only where a decision about the model names it: artifacts are shared, and what others learnt from
is for others. Texts of rows that were set aside are only in what a visitor gets who may read them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import partial

from pydantic import Field

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import QUARANTINE, SPLITS, QuarantineReason, SnapshotStatistics, SplitStatistics
from retrainer.artifacts.training import CutRows, TrainingRecord
from retrainer.console.decision import DIGEST, read_receipt, refuse_other_than_digest, texts_shown
from retrainer.console.drawing import Segment, stacked
from retrainer.console.host import Shown
from retrainer.console.overview import published_by
from retrainer.console.stores import Problem, Stores
from retrainer.errors import ArtifactError, IntegrityError, NotFoundError
from retrainer.gate.receipt import Receipt
from retrainer.records import Record
from retrainer.report.decision import parts
from retrainer.report.figures import counted_rows, megabytes
from retrainer.report.flips import cut
from retrainer.report.presentation import Part, part, percent
from retrainer.store.parallel import in_parallel
from retrainer.store.summary import ChannelSummary

# Decisions whose snapshots are shown; of older ones in the summary a snapshot is shown where it is asked for.
MOST_DECISIONS = 16
# Rows of each reason with their texts.
MOST_ROWS = 8
MOST_BYTES = 50_000_000
# Labels with a colour of their own.
MOST_COLOURS = 8

MEANINGS: dict[QuarantineReason, str] = {
    "missing_text": "no text",
    "missing_label": "no label",
    "conflicting_labels": "the same text also has another label",
    "also_in_test": "also in the test file",
    "also_in_validation": "also in the validation file",
    "nearly_in_test": "nearly a test row, with the same label",
    "nearly_in_validation": "nearly a validation row, with the same label",
}


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


# --- what is drawn -----------------------------------------------------------------------------------------


class LabelRow(Record):
    """A label in the splits of a snapshot.

    :ivar colour: its number; the last is of all that have none of their own.
    :ivar shares: split to the share of its rows that have the label, and how many those are.
    :ivar champion: its share of the rows that the champion was trained on.
    """

    label: str
    colour: int
    shares: dict[str, tuple[float, int]]
    champion: float | None


def labels_of(page: DataPage) -> tuple[LabelRow, ...]:
    """Every label of the snapshot that is shown, the commonest first."""
    statistics = page.shown.statistics if page.shown is not None else None
    if statistics is None:
        return ()
    before = page.champion.statistics if page.champion is not None else None
    colours = colours_of(page)
    order = sorted(statistics.labels, key=lambda label: (-statistics.splits["train"].label_counts.get(label, 0), label))
    return tuple(
        LabelRow(
            label=label,
            colour=colours.get(label, MOST_COLOURS - 1),
            shares={split: _share(statistics.splits[split], label) for split in SPLITS},
            champion=_share(before.splits["train"], label)[0]
            if before is not None and label in before.labels
            else None,
        )
        for label in order
    )


def _share(split: SplitStatistics, label: str) -> tuple[float, int]:
    count = split.label_counts.get(label, 0)
    return (count / split.rows if split.rows else 0.0), count


def colours_of(page: DataPage) -> dict[str, int]:
    """Label to a number by which it is coloured in every snapshot; of many the rarest share the last."""
    statistics = page.shown.statistics if page.shown is not None else None
    if statistics is None:
        return {}
    order, counts = [*statistics.labels], statistics.splits["train"].label_counts
    if len(order) > MOST_COLOURS:
        order.sort(key=lambda label: (-counts.get(label, 0), label))
    return {label: min(at, MOST_COLOURS - 1) for at, label in enumerate(order)}


def bar_of_labels(page: DataPage, snapshot: Snapshot) -> tuple[Segment, ...]:
    """How the labels of the training rows divide."""
    if snapshot.statistics is None:
        return ()
    colours, counts = colours_of(page), snapshot.statistics.splits["train"].label_counts
    last = f"s{MOST_COLOURS - 1}"
    sizes = [
        (f"s{colours[label]}" if label in colours else last, label, float(counts.get(label, 0))) for label in colours
    ]
    single = [one for one in sizes if one[0] != last]
    others = [one for one in sizes if one[0] == last]
    others += [(last, label, float(count)) for label, count in counts.items() if label not in colours]
    if len(others) > 1:
        others = [(last, f"{len(others)} other labels", sum(size for _, _, size in others))]
    return stacked([*single, *others])


def bar_of_rows(statistics: SnapshotStatistics) -> tuple[Segment, ...]:
    """What became of the rows that were read."""
    splits = [(split, split, float(statistics.splits[split].rows)) for split in SPLITS]
    aside = float(sum(statistics.quarantined.values()))
    return stacked(
        [*splits, ("duplicates", "duplicates, dropped", float(statistics.duplicates)), ("aside", "set aside", aside)],
        percents=False,
    )


def parts_of(page: DataPage) -> dict[str, Part]:
    """Sentences and tables about the snapshot that is shown."""
    statistics = page.shown.statistics if page.shown is not None else None
    if statistics is None:
        return {}
    made = parts(page.receipt) if page.receipt is not None else {}
    own = (_quarantine(statistics), _two_places(statistics), _lengths(page, statistics), _sources(statistics))
    return {**{one.name: one for one in own}, **{name: made[name] for name in ("leakage", "drift") if name in made}}


def _quarantine(statistics: SnapshotStatistics) -> Part:
    said = [] if statistics.quarantined else ["No row was set aside."]
    if statistics.duplicates:
        dropped = f"{counted_rows(statistics.duplicates)} that stand there more than once with the same label"
        said.append(f"{dropped} are dropped, and only counted.")
    return part(
        "quarantine",
        "Set aside",
        *said,
        caption="Rows in quarantine",
        head=("reason", "rows", "of all rows"),
        rows=(
            (MEANINGS[reason], f"{count:,}", percent(round(count / statistics.source_rows, 4)))
            for reason, count in sorted(statistics.quarantined.items(), key=lambda item: -item[1])
        ),
    )


def _two_places(statistics: SnapshotStatistics) -> Part:
    """Leakage as ingest saw it; the receipt has it with the champion's rows."""
    names = [name for name in {**statistics.leakage, **statistics.near_leakage} if _leaks(statistics, name)]
    return part(
        "two_places",
        "Rows in two places",
        *([] if names else ["No row is in two splits, nor nearly."]),
        caption="Rows that were taken out, since they are in another split too",
        head=("rows", "exactly", "nearly"),
        rows=(
            (
                name.replace("_", " "),
                f"{statistics.leakage.get(name, 0):,}",
                f"{statistics.near_leakage.get(name, 0):,}",
            )
            for name in names
        ),
    )


def _leaks(statistics: SnapshotStatistics, name: str) -> bool:
    return bool(statistics.leakage.get(name) or statistics.near_leakage.get(name))


def _lengths(page: DataPage, statistics: SnapshotStatistics) -> Part:
    def cut_rows(split: str) -> str:
        found = page.cut.get(split)
        rows = statistics.splits[split].rows  # type: ignore[index]
        return (
            "not counted" if found is None else f"{found.inputs:,} ({percent(round(found.inputs / max(rows, 1), 4))})"
        )

    return part(
        "lengths",
        "How long the texts are",
        caption="Characters, and rows that are longer than the model reads",
        head=("split", "half are shorter than", "95 % are shorter than", "longest", "cut"),
        rows=(
            (split, *(f"{value:,}" for value in (found.p50, found.p95, found.max)), cut_rows(split))
            for split in SPLITS
            if (found := statistics.splits[split].characters) is not None
        ),
    )


def _sources(statistics: SnapshotStatistics) -> Part:
    corrected = statistics.corrections
    said = []
    if corrected is not None:
        changed = sum(corrected.relabelled.values())
        said.append(f"{corrected.given:,} corrections of people gave {counted_rows(changed)} another label.")
    for label, spellings in statistics.spellings.items():
        written = ", ".join(f"'{spelling}' {count:,}" for spelling, count in spellings.items())
        said.append(f"'{label}' is also written otherwise: {written}.")
    return part(
        "sources",
        "Where it comes from",
        *said,
        caption="Files, as they were read",
        head=("file", "for", "format", "rows", "size"),
        rows=(
            (
                one.name,
                one.split,
                one.reading or one.format,
                f"{one.rows:,}",
                megabytes(one.size) if one.size is not None else "-",
            )
            for one in statistics.sources
        ),
    )


def legend_of(page: DataPage) -> tuple[tuple[str, str], ...]:
    """Colour and label of what is in the bars."""
    by_colour: dict[int, list[str]] = {}
    for label, colour in colours_of(page).items():
        by_colour.setdefault(colour, []).append(label)
    return tuple(
        (f"s{colour}", labels[0] if len(labels) == 1 else f"{len(labels)} other labels")
        for colour, labels in sorted(by_colour.items())
    )
