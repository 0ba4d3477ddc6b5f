"""``summary.json`` of a model: who is champion, the last moves and decisions, in one small object.

For pages that show many models with one request each. It is refreshed by whoever moves a channel or takes a decision,
after that is done, and nothing depends on it: the log and the ledger are the truth, a reader that serves a model never
looks here, and a write that fails is a warning in a log. It is not signed. Two who write at once may lose one's part;
the next one notices the gap and reads the log anew. Not here: what the pages make of it (``console``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat

from retrainer.errors import IntegrityError, NotFoundError, RetrainerError
from retrainer.records import FileRecord, Record, unset
from retrainer.storage import Storage, deadline
from retrainer.store.causes import Cause
from retrainer.store.entry import Entry, Look, Spent, Verdict
from retrainer.store.ledger import Ledger
from retrainer.store.log import ChannelLog
from retrainer.store.move import STAYS, Action, Moment, Move
from retrainer.store.names import SUMMARY, Version, summary_key
from retrainer.store.parallel import in_parallel
from retrainer.store.reading import list_channels
from retrainer.store.versions import Versions

log = logging.getLogger(__name__)

# Moves and decisions of a channel that it holds.
MOST_KEPT = 50
# Of a reason in words; the receipt has all of it.
MOST_CHARACTERS = 300
MOST_REASONS = 8
MOST_SUMMARY = 1024 * 1024
# What a publication waits for it at most, however slow the store is; and where the log is read anew.
_SECONDS, _SECONDS_ANEW = 5.0, 20.0


class Figure(Record):
    """A number with its bounds, where it has any."""

    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None


class MoveSummary(Record):
    """A move that changed what a channel serves. Fields as in ``Move``.

    :ivar metrics: of the version, on the test rows of its decision.
    """

    sequence: int
    action: Action
    from_version: Version | None
    to_version: Version
    actor: str
    at: Moment
    cause: Cause
    reason: str
    decision: str | None
    metrics: dict[str, Figure]


class Judged(Record):
    """What of a receipt stands in a list.

    :ivar texts: the reasons in words, as long as the list of codes or shorter.
    :ivar metric: by which it was compared; ``difference`` challenger minus champion, of which the whole interval must
        be above ``threshold``.
    :ivar metrics: of the challenger.
    :ivar drift: the worst verdict on the data: ``none``, ``note``, ``warn``, ``block``; ``None`` where not measured.
    """

    texts: tuple[str, ...] = ()
    metric: str | None = None
    difference: Figure | None = None
    threshold: FiniteFloat | None = None
    metrics: dict[str, Figure] = Field(default_factory=dict)
    drift: str | None = None


class DecisionSummary(Record):
    """A verdict of the ledger, with what its receipt says where that is known.

    :ivar entry: its number in the ledger.
    :ivar challenger: digest of its export artifact; ``champion`` the version that it was compared with.
    :ivar reasons: codes, where it refused.
    :ivar judged: ``None`` where the summary was made anew from the ledger, which has no words.
    """

    entry: int
    decision: str
    verdict: Literal["promote", "refuse"]
    reasons: tuple[str, ...]
    challenger: str | None
    champion: Version | None
    actor: str
    run: str
    at: Moment
    judged: Judged | None = None


class DecayNote(Record):
    """The last check of a version on rows that were labelled since it was published.

    :ivar check: digest of the artifact of the check.
    :ivar text: why the verdict is what it is.
    :ivar drop: how much worse it is than at its decision, by ``metric``; positive is worse.
    """

    version: Version
    check: str
    verdict: Literal["holds", "decayed", "insufficient"]
    text: str
    metric: str
    drop: Figure | None
    rows: int
    at: Moment


class ChannelSummary(Record):
    """One channel.

    :ivar sequence: number of its newest move; 0 while there is none.
    :ivar moves: those that changed what is served, the newest first.
    :ivar decisions: the newest first.
    :ivar decay: neither log nor ledger has it; where it is lost, the next check of other rows brings it back.
    """

    sequence: int = 0
    moves: tuple[MoveSummary, ...] = ()
    decisions: tuple[DecisionSummary, ...] = ()
    decay: DecayNote | None = Field(None, exclude_if=unset)

    @property
    def champion(self) -> str | None:
        """The version that it serves."""
        return self.moves[0].to_version if self.moves else None


class Summary(FileRecord):
    """``summary.json``.

    :ivar written_at: ISO 8601 in UTC, by the clock of whoever wrote it.
    """

    file: ClassVar[str] = SUMMARY
    format_version: Literal[1] = 1
    model: str
    written_at: Moment
    channels: dict[str, ChannelSummary] = Field(default_factory=dict)

    def of(self, channel: str) -> ChannelSummary:
        """One channel; an empty one where nothing is known of it."""
        return self.channels.get(channel, ChannelSummary())


def read_summary(storage: Storage, model: str) -> Summary | None:
    """The summary as it was last written, in one request; ``None`` where there is none.

    :raises IntegrityError: it cannot be read as one.
    """
    data = summary_bytes(storage, model)
    return parse_summary(storage, model, data) if data is not None else None


def summary_bytes(storage: Storage, model: str) -> bytes | None:
    """The same, before it is parsed."""
    try:
        return storage.read(summary_key(model), most=MOST_SUMMARY)
    except NotFoundError:
        return None


def parse_summary(storage: Storage, model: str, data: bytes) -> Summary:
    """The summary in these bytes.

    :raises IntegrityError: they hold none, or another model's.
    """
    where = storage.where(summary_key(model))
    summary = Summary.from_json(data, where=where)
    if summary.model != model:
        raise IntegrityError(f"is the summary of '{summary.model}'", where=where)
    return summary


def make_summary(storage: Storage, model: str, known: Summary | None = None) -> Summary:
    """The summary made anew from the logs and the ledger, each checked as far as it is read. Nothing is written.

    :param known: an older one, for what neither says: intervals, reasons in words.
    :raises IntegrityError: a log or the ledger was altered.
    """
    entries = Ledger(storage, model).entries()
    names = {*list_channels(storage, model), *_channels_in(entries)}
    channels = {name: _decided(_moved(storage, model, name, known), entries, name, known) for name in sorted(names)}
    if known is not None:
        channels = {name: found.model_copy(update={"decay": known.of(name).decay}) for name, found in channels.items()}
    return Summary(model=model, written_at=_now(), channels=channels)


def note_move(storage: Storage, move: Move, metrics: Mapping[str, Figure]) -> None:
    """Refresh the summary once a channel was moved: two requests where it was up to date.

    :param metrics: of the version that the channel was moved to, unless the summary knows better.
    """

    def noted(before: Summary) -> Summary | None:
        channel = before.of(move.channel)
        if channel.sequence >= move.sequence:
            return before
        if channel.sequence != move.sequence - 1:
            return None
        moves = channel.moves
        if move.action not in STAYS:
            known = _metrics_in(before)
            has_bounds = any(figure.low is not None for figure in metrics.values())
            figures = dict(metrics) if has_bounds else known.get(move.to_version, dict(metrics))
            moves = (_of_move(move, figures), *moves)[:MOST_KEPT]
        return _with(before, move.channel, channel.model_copy(update={"sequence": move.sequence, "moves": moves}))

    _refresh(storage, move.model, noted, is_first=move.sequence == 1)


def note_decision(storage: Storage, model: str, entries: Sequence[Entry], decision: str, judged: Judged) -> None:
    """Refresh the summary once a verdict is in the ledger: two requests.

    :param entries: the whole ledger, with the verdict.
    :param decision: digest of the decide artifact that ``judged`` is of.
    """

    def noted(before: Summary) -> Summary:
        channels = {
            name: _decided(before.of(name), entries, name, before, {decision: judged})
            for name in {*before.channels, *_channels_in(entries)}
        }
        return before.model_copy(update={"channels": channels})

    _refresh(storage, model, noted, is_first=sum(isinstance(entry.event, Verdict) for entry in entries) == 1)


def note_decay(storage: Storage, model: str, channel: str, note: DecayNote) -> None:
    """Refresh the summary once a version was checked: two requests."""

    def noted(before: Summary) -> Summary:
        return _with(before, channel, before.of(channel).model_copy(update={"decay": note}))

    _refresh(storage, model, noted, is_first=False)


def _refresh(storage: Storage, model: str, noted: Callable[[Summary], Summary | None], *, is_first: bool) -> None:
    """Read, change, write. What goes wrong is said in the log only: the move, or the verdict, stands.

    :param noted: the changed summary; ``None`` where it has a gap, so that it has to be made anew.
    :param is_first: nothing was there before that a new summary could lack.
    """
    try:
        with deadline(_SECONDS):
            before = _readable(storage, model)
            if before is None and is_first:
                before = Summary(model=model, written_at=_now())
            after = noted(before) if before is not None else None
        if after is None:
            with deadline(_SECONDS_ANEW):
                made = make_summary(storage, model, before)
                after = noted(made) or made
        with deadline(_SECONDS):
            changed = after.model_copy(update={"written_at": _now()})
            storage.write(summary_key(model), changed.to_json())
    except RetrainerError as error:
        log.warning("the summary of '%s', which pages show, is not refreshed: %s", model, error)


def _readable(storage: Storage, model: str) -> Summary | None:
    try:
        return read_summary(storage, model)
    except IntegrityError as error:
        log.warning("the summary of '%s' is made anew: %s", model, error)
        return None


def _with(summary: Summary, name: str, channel: ChannelSummary) -> Summary:
    return summary.model_copy(update={"channels": {**summary.channels, name: channel}})


def _moved(storage: Storage, model: str, channel: str, known: Summary | None) -> ChannelSummary:
    """The moves of a channel, as its log has them."""
    channel_log = ChannelLog(storage, model, channel)
    newest = channel_log.head().move
    if newest is None:
        return ChannelSummary()
    moves = [move for move in islice(channel_log.walk(newest), MOST_KEPT) if move.action not in STAYS]
    metrics = _metrics_in(known) if known is not None else {}
    versions = list(dict.fromkeys(move.to_version for move in moves if move.to_version not in metrics))
    found = in_parallel(lambda version: _metrics_of(storage, model, version), versions)
    metrics = {**metrics, **dict(zip(versions, found, strict=True))}
    return ChannelSummary(
        sequence=newest.sequence, moves=tuple(_of_move(move, metrics[move.to_version]) for move in moves)
    )


def _metrics_of(storage: Storage, model: str, version: str) -> dict[str, Figure]:
    try:
        metrics = Versions(storage, model).manifest(version).metrics
    except (NotFoundError, IntegrityError):  # removed since, or damaged: fsck says more
        return {}
    return figures_of(metrics)


def figures_of(metrics: Mapping[str, float]) -> dict[str, Figure]:
    """Numbers without bounds."""
    return {name: Figure(value=value) for name, value in metrics.items()}


def _metrics_in(summary: Summary) -> dict[str, dict[str, Figure]]:
    moves = (move for channel in summary.channels.values() for move in channel.moves)
    return {move.to_version: move.metrics for move in moves if move.metrics}


def _of_move(move: Move, metrics: Mapping[str, Figure]) -> MoveSummary:
    fields = move.model_dump(include=set(MoveSummary.model_fields))
    return MoveSummary(**{**fields, "reason": shortened(move.reason)}, metrics=dict(metrics))


def _decided(
    channel: ChannelSummary,
    entries: Sequence[Entry],
    name: str,
    known: Summary | None,
    new: Mapping[str, Judged] | None = None,
) -> ChannelSummary:
    """A channel with its decisions as the ledger has them, and their words as far as they are known."""
    words = {one.decision: one.judged for one in known.of(name).decisions} if known is not None else {}
    words = {**words, **(new or {})}
    verdicts = [(entry, entry.event) for entry in entries if isinstance(entry.event, Verdict)]
    newest = [(entry, verdict) for entry, verdict in reversed(verdicts) if verdict.channel == name][:MOST_KEPT]
    decisions = tuple(_of_verdict(entries, entry, said, words.get(said.decision)) for entry, said in newest)
    return channel.model_copy(update={"decisions": decisions})


def _of_verdict(entries: Sequence[Entry], entry: Entry, verdict: Verdict, judged: Judged | None) -> DecisionSummary:
    spent = entries[verdict.spent - 1].event
    look = entries[spent.look - 1].event if isinstance(spent, Spent) else None
    return DecisionSummary(
        entry=entry.sequence,
        decision=verdict.decision,
        verdict=verdict.verdict,
        reasons=verdict.reasons,
        challenger=look.challenger if isinstance(look, Look) else None,
        champion=spent.champion if isinstance(spent, Spent) else None,
        actor=entry.actor,
        run=entry.run,
        at=entry.at,
        judged=judged,
    )


def _channels_in(entries: Sequence[Entry]) -> set[str]:
    return {entry.event.channel for entry in entries if isinstance(entry.event, Verdict)}


def shortened(text: str) -> str:
    """As much of a text as a list shows."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
