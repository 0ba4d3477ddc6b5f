"""The page of a run: what happened in it, in words, so that nobody has to open a log; and each of its tasks.

Of runs of two kinds of DAGs: those that retrain a model, and the one that moves channels. Not here: how the host knows
(``host.Host.run``), what stands in a log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal

from retrainer.chain import DECIDE, PUBLISH, Decided, Published, StepRef, step_named
from retrainer.chain.messages import duration
from retrainer.console.approvals import Waiting
from retrainer.console.health import Level
from retrainer.console.host import Answer, Question, RunSeen, TaskSeen
from retrainer.console.words import short, shown_time
from retrainer.errors import RetrainerError
from retrainer.gate.receipt import Reason
from retrainer.records import Record

_ENDED = frozenset({"success", "failed"})
_RUNNING = frozenset({"running", "restarting"})
_DONE = frozenset({"success", "skipped", "removed"})
# Who starts a run, where no person did.
_KINDS: Mapping[str, str] = {
    "scheduled": "the schedule",
    "asset_triggered": "new data",
    "backfill": "a backfill",
    "manual": "somebody",
}
_LEVELS: Mapping[str | None, Level] = {
    "success": "good",
    "failed": "bad",
    "up_for_retry": "warn",
    "awaiting_input": "warn",
    "deferred": "note",
    "running": "note",
    "queued": "note",
    "scheduled": "note",
}
_WORDS: Mapping[str | None, str] = {
    "success": "done",
    "skipped": "skipped",
    "upstream_failed": "did not begin: a task before it failed",
    "up_for_retry": "failed, and is tried again",
    "awaiting_input": "waits for an answer",
    "deferred": "waits",
    "queued": "waits for a worker",
    "scheduled": "waits for its turn",
    None: "to come",
}


class HowFar(Record):
    """Of a task that runs.

    :param fraction: of its stage; ``None`` where nobody knows how much there is.
    """

    text: str
    fraction: float | None


class Part(Record):
    """A task of the run.

    :ivar words: its state.
    :ivar took: how long, in words.
    :ivar outcome: what came of it.
    :ivar problem: why it failed.
    """

    name: str
    task_id: str
    map_index: int
    state: str | None
    level: Level
    words: str
    began: datetime | None
    ended: datetime | None
    took: str
    tries: int
    outcome: str = ""
    problem: str | None = None
    how_far: HowFar | None = None
    checkpoint: str | None = None


class Told(Record):
    """What happened, in words."""

    level: Level
    headline: str
    sentences: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()


class RunPage(Record):
    """The page.

    :ivar kind: of what: a retrain, or a move by hand.
    :ivar by: who started it.
    :ivar asked: what the run was asked to do otherwise, in sentences.
    :ivar decision: digest of what was decided in it.
    :ivar channel: of the model, that it is about.
    :ivar waiting: for whom it waits.
    :ivar goes_on: it has not ended: the page looks again by itself.
    """

    model: str
    channel: str
    kind: Literal["retrain", "move"]
    dag_id: str
    run_id: str
    state: str
    told: Told
    by: str
    began: datetime | None
    ended: datetime | None
    took: str
    now: datetime
    note: str | None
    asked: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    decision: str | None = None
    version: str | None = None
    run_folder: str | None = None
    waiting: tuple[Waiting, ...] = ()
    goes_on: bool


def retrain_page(
    model: str, channel: str, seen: RunSeen, waiting: Sequence[Waiting], now: datetime, *, may_read_logs: bool
) -> RunPage:
    """Of a run that retrains a model.

    :param channel: of its pipeline.
    :param may_read_logs: whether the visitor may see what logs say, such as why a task failed.
    """
    refs = _references(seen.tasks)
    published = _output(refs, PUBLISH.name)
    pipeline = next((ref.pipeline for ref in refs.values() if ref.pipeline is not None), None)
    asked = [line for ref in refs.values() for line in ref.changes.lines()]
    return RunPage(
        model=model,
        channel=pipeline.publish.channel if pipeline is not None else channel,
        kind="retrain",
        told=_told(seen, refs, waiting, may_read_logs=may_read_logs),
        asked=tuple(dict.fromkeys(asked)),
        parts=_parts(seen, refs, now, may_read_logs=may_read_logs),
        decision=next((ref.digest for ref in refs.values() if ref.step == DECIDE.name and ref.digest), None),
        version=published.version if isinstance(published, Published) else None,
        waiting=tuple(waiting),
        **_of_every(seen, now),
    )


def move_page(seen: RunSeen, now: datetime, *, may_read_logs: bool) -> RunPage:
    """Of a run that moves a channel, as its ``conf`` says."""
    asked = {name: str(value) for name, value in seen.conf.items() if value}
    model, channel = asked.get("pipeline", ""), asked.get("channel", "production")
    parts = _parts(seen, {}, now, may_read_logs=may_read_logs)
    moved = next((one.returned for one in seen.tasks if isinstance(one.returned, Mapping)), {})
    return RunPage(
        model=model,
        channel=channel,
        kind="move",
        told=_told_of_move(seen, asked, moved, parts),
        asked=tuple(_said_of_move(asked)),
        parts=parts,
        version=moved.get("version"),
        **_of_every(seen, now),
    )


def _of_every(seen: RunSeen, now: datetime) -> dict[str, Any]:
    return {
        "dag_id": seen.dag_id,
        "run_id": seen.run_id,
        "state": seen.state,
        "by": seen.by or _KINDS.get(seen.kind, seen.kind),
        "began": seen.began,
        "ended": seen.ended,
        "took": _took(seen.began, seen.ended, now),
        "now": now,
        "note": seen.note or None,
        "run_folder": _kept(seen.tasks, "run_folder"),
        "goes_on": seen.state not in _ENDED,
    }


# What happened


def _told(
    seen: RunSeen,
    refs: Mapping[tuple[str, int], StepRef],
    waiting: Sequence[Waiting],
    *,
    may_read_logs: bool,
) -> Told:
    if seen.state == "failed":
        return _failed(seen, may_read_logs=may_read_logs)
    if seen.state != "success":
        return _under_way(seen, waiting, may_read_logs=may_read_logs)
    decided, published = _output(refs, DECIDE.name), _output(refs, PUBLISH.name)
    unchanged = next((ref.unchanged for ref in refs.values() if ref.unchanged is not None), None)
    if isinstance(published, Published):
        return _published(published, _answer(seen.questions))
    if unchanged is not None:
        sentence = f"{unchanged.channel} already serves the model that this data and this pipeline give."
        return Told(level="good", headline=f"Nothing changed: version {unchanged.version}", sentences=(sentence,))
    if not isinstance(decided, Decided):
        return Told(level="unknown", headline="The run succeeded, and nothing was decided in it")
    if decided.verdict == "refuse":
        several = f"{len(decided.reasons)} reasons" if len(decided.reasons) > 1 else "1 reason"
        return Told(
            level="warn",
            headline=f"The gate refused the challenger, for {several}",
            sentences=("Nothing was published; what is served stays.",),
            reasons=decided.reasons,
        )
    return Told(
        level="note",
        headline="The gate promoted the challenger, and nothing was published",
        sentences=(_held_back(seen, refs),),
    )


def _published(published: Published, answer: Answer | None) -> Told:
    before = f" It served {short(published.previous)} before." if published.previous else " It served nothing before."
    approved = f" {answer.by} approved it{_because(answer)}." if answer is not None and answer.by else ""
    if not published.moved:
        return Told(level="good", headline=f"{published.channel} already serves version {published.version}")
    return Told(
        level="good",
        headline=f"Published: {published.channel} serves version {published.version}",
        sentences=((before + approved).strip(),),
    )


def _held_back(seen: RunSeen, refs: Mapping[tuple[str, int], StepRef]) -> str:
    if any(ref.changes.dry_run for ref in refs.values()):
        return "It was a dry run: everything but publishing."
    answer = _answer(seen.questions)
    if answer is not None and answer.by is None:
        return "Nobody answered in time whether it may go live. The next run asks again."
    if answer is not None:
        return f"{answer.by} rejected it{_because(answer)}. Nobody is asked again until something changes."
    return (
        "Somebody rejected this very decision in a run before, so that nobody was asked. The page of the decision says "
        "who and why; a run with ask_again asks once more."
    )


def _failed(seen: RunSeen, *, may_read_logs: bool) -> Told:
    failed = [one for one in seen.tasks if one.state == "failed"]
    if not failed:
        sentence = "It took longer than dag.run_timeout allows, or somebody marked it as failed."
        return Told(level="bad", headline="The run failed, and none of its tasks did", sentences=(sentence,))
    names = ", ".join(one.name for one in failed)
    sentences = [_why(one, may_read_logs=may_read_logs) for one in failed]
    return Told(level="bad", headline=f"Failed in {names}", sentences=tuple(dict.fromkeys(sentences)))


def _under_way(seen: RunSeen, waiting: Sequence[Waiting], *, may_read_logs: bool) -> Told:
    if waiting:
        (one, *_) = waiting
        whom = ", ".join(one.people) if one.people else "somebody who may"
        until = f", until {shown_time(one.until)}" if one.until else ""
        return Told(
            level="warn",
            headline="It waits for an approval",
            sentences=(f"{one.subject} It waits for {whom} since {shown_time(one.since)}{until}.",),
        )
    again = [one for one in seen.tasks if one.state == "up_for_retry"]
    if again:
        return Told(
            level="warn",
            headline=f"{again[0].name} failed, and is tried again",
            sentences=(_why(again[0], may_read_logs=may_read_logs),),
        )
    running = [one for one in seen.tasks if one.state in _RUNNING]
    if running:
        names = ", ".join(one.name for one in running)
        far = tuple(how.text for one in running if (how := _how_far(one)) is not None)
        return Told(level="note", headline=f"{names} {'runs' if len(running) == 1 else 'run'}", sentences=far)
    waits = next((one for one in seen.tasks if one.state in ("queued", "scheduled")), None)
    if waits is not None:
        pool = f", or for a place in the pool {waits.pool}" if waits.pool and waits.pool != "default_pool" else ""
        return Told(level="note", headline=f"{waits.name} waits for a worker{pool}")
    since = f"since {shown_time(seen.queued)}" if seen.queued else ""
    about = "A run of this DAG begins when the one before it has ended, and when the DAG is not paused."
    return Told(level="note", headline=f"Waits to begin {since}".strip(), sentences=(about,))


def _why(task: TaskSeen, *, may_read_logs: bool) -> str:
    if not may_read_logs:
        return "Its log says why; you may not read that."
    problem = _mapping(task.kept.get("problem"))
    text = str(problem.get("text") or "")
    if not text:
        return "It ended without a word: it was stopped, or its machine was. Its log is what is left."
    tried = problem.get("try")
    if isinstance(tried, int) and 0 < tried < task.tries:
        return f"It ended without a word: it was stopped, or its machine was. What try {tried} failed with: {text}"
    return text


def _told_of_move(seen: RunSeen, asked: Mapping[str, str], moved: Mapping[str, Any], parts: Iterable[Part]) -> Told:
    model, channel = asked.get("pipeline", "the model"), asked.get("channel", "production")
    if seen.state == "success" and moved.get("version"):
        verb = "now serves" if moved.get("moved") else "already served"
        before = f"It served {moved['previous']} before." if moved.get("previous") and moved.get("moved") else ""
        headline = f"{channel} of {model} {verb} version {moved['version']}"
        return Told(level="good", headline=headline, sentences=(before,) if before else ())
    if seen.state == "failed":
        problems = tuple(dict.fromkeys(part.problem for part in parts if part.problem))
        return Told(level="bad", headline=f"{channel} of {model} was not moved", sentences=problems)
    action = "rolled back" if asked.get("action") == "rollback" else "moved"
    checks = "Every file of the version is verified, and the version is loaded and asked its golden rows before."
    return Told(level="note", headline=f"{channel} of {model} is being {action}", sentences=(checks,))


def _said_of_move(asked: Mapping[str, str]) -> list[str]:
    to = asked.get("version") or asked.get("from_channel", "")
    said = [f"{asked.get('action', 'move')} {asked.get('channel', '')}" + (f" to {to}" if to else "")]
    said += [f"cause: {asked['cause']}"] if "cause" in asked else []
    return said + ([f"reason: {asked['reason']}"] if "reason" in asked else [])


# The tasks


def _parts(
    seen: RunSeen, refs: Mapping[tuple[str, int], StepRef], now: datetime, *, may_read_logs: bool
) -> tuple[Part, ...]:
    return tuple(
        Part(
            name=one.name,
            task_id=one.task_id,
            map_index=one.map_index,
            state=one.state,
            level=_LEVELS.get(one.state, "unknown"),
            words=_WORDS.get(one.state, str(one.state)),
            began=one.began,
            ended=one.ended,
            took=_took(one.began, one.ended, now) if one.state not in ("skipped", "upstream_failed") else "",
            tries=one.tries,
            outcome=_outcome(refs.get((one.task_id, one.map_index))) if one.state == "success" else "",
            problem=_why(one, may_read_logs=may_read_logs) if one.state in ("failed", "up_for_retry") else None,
            how_far=_how_far(one) if one.state in _RUNNING else None,
            checkpoint=str(kept) if (kept := one.kept.get("checkpoint")) and one.state not in _DONE else None,
        )
        for one in seen.tasks
    )


def _outcome(ref: StepRef | None) -> str:
    if ref is None:
        return ""
    if ref.unchanged is not None:
        return ref.unchanged.brief()
    brief = ""
    with suppress(RetrainerError, LookupError):  # another version of retrainer left it
        brief = step_named(ref.step).output_of(ref).brief()
    return f"{brief} (done before, used again)" if ref.reused else brief


def _how_far(task: TaskSeen) -> HowFar | None:
    progress = _mapping(task.kept.get("progress"))
    if not progress.get("text"):
        return None
    done, total = progress.get("done"), progress.get("total")
    fraction = None
    if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
        fraction = min(1.0, done / total)
    return HowFar(text=str(progress["text"]), fraction=fraction)


def _references(tasks: Iterable[TaskSeen]) -> dict[tuple[str, int], StepRef]:
    """What the steps returned; of those that another version of retrainer took, nothing is known."""
    found = {}
    for one in tasks:
        if isinstance(one.returned, Mapping) and "step" in one.returned:
            with suppress(RetrainerError):
                found[one.task_id, one.map_index] = StepRef.from_content(one.returned, where=one.task_id)
    return found


def _output(refs: Mapping[tuple[str, int], StepRef], step: str) -> Any:
    for ref in refs.values():
        if ref.step == step and ref.unchanged is None and ref.digest:
            with suppress(RetrainerError):
                return step_named(step).output_of(ref)
    return None


def _answer(questions: Iterable[Question]) -> Answer | None:
    return next((one.answer for one in questions if one.answer is not None), None)


def _because(answer: Answer) -> str:
    return f": “{answer.reason}”" if answer.reason else ""


def _kept(tasks: Iterable[TaskSeen], key: str) -> str | None:
    return next((str(one.kept[key]) for one in tasks if one.kept.get(key)), None)


def _took(began: datetime | None, ended: datetime | None, now: datetime) -> str:
    return duration(max(0.0, ((ended or now) - began).total_seconds())) if began is not None else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
