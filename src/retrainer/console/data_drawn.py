"""How what a model learnt from is drawn: bars of rows and labels, tables of what was set aside, lengths, files.

Pure. Not here: which snapshots there are, and reading them (``data.py``).
"""

from __future__ import annotations

from retrainer.artifacts.snapshot import SPLITS, QuarantineReason, SnapshotStatistics, SplitStatistics
from retrainer.console.data import DataPage, Snapshot
from retrainer.console.drawing import Segment, stacked
from retrainer.records import Record
from retrainer.report.decision import parts
from retrainer.report.figures import counted_rows, megabytes
from retrainer.report.presentation import Part, part, percent

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
