"""What a run found and did, for people: made from the references of its steps alone, so that any front end can say it.

Not here: colour and layout of a terminal (``cli``), the whole evidence (the receipt and the model card, which lie
with the artifacts and with the published version).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retrainer.chain import StepName, StepRef
from retrainer.chain.messages import duration
from retrainer.chain.outcome import Outcome, outcome_of
from retrainer.gate.records import Interval, Selection
from retrainer.report.explain import describe_interval
from retrainer.report.selection_table import agreement_table, candidates_table, differences
from retrainer.sources.base_models import short_name, short_names
from retrainer.spec.model import Pipeline


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it.

    :param facts: name and value; a value may have several lines.
    """

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A run, said.

    :param headline: the outcome in one sentence.
    :param code: Python that loads what the channel serves; empty when it serves nothing.
    """

    outcome: Outcome
    headline: str
    sections: tuple[Section, ...]
    code: str

    def text(self) -> str:
        """Everything as plain text, the headline last, where a person looks first."""
        blocks = [f"{section.title}\n{aligned(section.facts)}" for section in self.sections]
        if self.code:
            blocks.append(f"How to load it\n{_indented(self.code)}")
        return "\n\n".join([*blocks, self.headline]) + "\n"


def make_report(pipeline: Pipeline, steps: Mapping[StepName, StepRef], *, folder: str | None = None) -> Report:
    """The report of a run.

    :param steps: the steps that were taken; those not reached are left out of the report.
    :param folder: the run's dated folder.
    """
    outcome = outcome_of(steps)
    if outcome == "promoted" and "publish" not in steps:
        outcome = "unapproved"
    makers = {
        "ingest": _data,
        "train": _training,
        "export": _export,
        "select": _selection,
        "evaluate": _evaluation,
        "decide": _decision,
        "publish": _published,
    }
    sections = [makers[step](ref) for step, ref in steps.items() if not (ref.unchanged and step == "decide")]
    places = [("run folder", folder)] if folder else []
    places += [("artifacts", next(iter(steps.values())).root)] if steps else []
    sections.append(Section("Where", tuple(places)))
    champion = _champion(steps)
    return Report(
        outcome=outcome,
        headline=_headline(outcome, pipeline, steps, champion),
        sections=tuple(section for section in sections if section.facts),
        code=loading_code(pipeline) if champion else "",
    )


def aligned(facts: tuple[tuple[str, str], ...]) -> str:
    """Names and values in two columns, two spaces in; further lines of a value stand below its first."""
    width = max(len(name) for name, _ in facts)
    lines: list[str] = []
    for name, value in facts:
        first, *rest = value.splitlines() or [""]
        lines.append(f"  {name:<{width}}  {first}")
        lines += [f"  {'':<{width}}  {line}" for line in rest]
    return "\n".join(lines)


def loading_code(pipeline: Pipeline) -> str:
    """Three lines of Python that load the model that the pipeline publishes, and ask it something."""
    example = '("first text", "second text")' if pipeline.task == "text-pair-classification" else '"some text"'
    channel = pipeline.publish.channel
    more = f", channel={_quoted(channel)}" if channel != "production" else ""
    if keys := pipeline.publish.trusted_keys:
        more += f", public_keys=[{', '.join(map(_quoted, keys))}]"
    return (
        "from retrainer.serve import Classifier\n"
        f"classifier = Classifier.from_store({_quoted(pipeline.publish.store)}, {_quoted(pipeline.name)}{more})\n"
        f"print(classifier({example}))"
    )


def _quoted(text: str) -> str:
    """A Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def brief(ref: StepRef) -> str:
    """What came out of a step, in a few words."""
    summary = ref.summary
    if ref.unchanged:
        return f"unchanged: version {summary['champion_version']} is this model"
    match ref.step:
        case "ingest":
            return ", ".join(f"{split} {number(rows)}" for split, rows in (summary.get("rows") or {}).items())
        case "train":
            return scores(summary.get("metrics"))
        case "export":
            return ", ".join(summary.get("precisions") or ())
        case "select":
            return f"{short_name(str(summary.get('chosen')))} of {len(summary.get('candidates') or ())}"
        case "evaluate":
            version = summary.get("champion_version")
            return scores(summary.get("metrics")) + (f", champion {version}" if version else "")
        case "decide":
            codes = ", ".join(str(reason.get("code")) for reason in summary.get("reasons") or ())
            return f"{summary.get('verdict')}" + (f": {codes}" if codes else "")
        case "publish":
            return f"version {summary.get('version')} on {summary.get('channel')}"


def number(value: Any) -> str:
    """A score or a figure with as many digits as people compare; ``-`` for none."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def scores(values: Mapping[str, Any] | None) -> str:
    """``accuracy 0.9123, f1 0.9077, loss 0.31``: what people look for first comes first."""
    ordered = sorted((values or {}).items(), key=lambda item: item[0] == "loss")
    return ", ".join(f"{name} {number(value)}" for name, value in ordered)


def _signed(value: Any) -> str:
    return f"{value:+.4f}" if isinstance(value, (int, float)) else "-"


def _headline(outcome: Outcome, pipeline: Pipeline, steps: Mapping[StepName, StepRef], champion: str | None) -> str:
    channel, name = pipeline.publish.channel, pipeline.name
    if outcome == "unchanged":
        return f"unchanged: {channel} already serves this model, version {champion} of {name}"
    if outcome == "promoted":
        return f"promoted: version {champion} of {name} is live on {channel}"
    stays = f"{channel} stays at version {champion}" if champion else f"{channel} has not moved"
    if outcome == "unapproved":
        return f"not approved: the gate promotes the new {name}, a person has to approve it; {stays}"
    reasons = steps["decide"].summary.get("reasons") or [] if "decide" in steps else []
    codes = ", ".join(str(reason.get("code")) for reason in reasons)
    return f"refused: {codes or 'no decision'}; {stays}"


def _champion(steps: Mapping[StepName, StepRef]) -> str | None:
    """The version that the channel serves at the end of the run."""
    if "publish" in steps:
        return str(steps["publish"].summary["version"])
    version = steps["evaluate"].summary.get("champion_version") if "evaluate" in steps else None
    return str(version) if version else None


def _title(name: str, ref: StepRef) -> str:
    return f"{name} (done before)" if ref.reused and not ref.unchanged else name


def _data(ref: StepRef) -> Section:
    summary = ref.summary
    rows = summary.get("rows") or {}
    facts = [("rows", ", ".join(f"{split} {number(count)}" for split, count in rows.items()))]
    labels = summary.get("labels")
    if isinstance(labels, Mapping):
        facts.append(("labels", _counted(labels)))
    elif labels:
        facts.append(("labels", ", ".join(str(label) for label in labels)))
    facts.append(("duplicates", f"{number(summary.get('duplicates', 0))} dropped"))
    facts.append(("leakage", _rows_of(summary.get("leakage"), none="no row stands in two splits")))
    if any((summary.get("near_leakage") or {}).values()):
        facts.append(("near leakage", _rows_of(summary["near_leakage"], none="")))
    facts.append(("quarantined", _rows_of(summary.get("quarantined"), none="none")))
    return Section(_title("Data", ref), tuple(facts))


def _rows_of(value: Any, *, none: str) -> str:
    """A count, or counts by reason."""
    if isinstance(value, Mapping):
        counts = {name.replace("_", " "): count for name, count in value.items() if count}
        return f"{_rows(sum(counts.values()))}: {_counted(counts)}" if counts else none
    return _rows(value) if value else none


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _counted(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(count)}" for name, count in counts.items())


def _training(ref: StepRef) -> Section:
    summary = ref.summary
    facts = [("base model", ref.base)] if ref.base else []
    facts += [("epochs", f"{summary.get('epochs', 0):g} ({number(summary.get('steps'))} steps)")]
    if summary.get("metrics"):
        facts.append(("best on validation", scores(summary["metrics"])))
    facts.append(("speed", f"{summary.get('rows_per_second') or 0:.1f} rows/s on {summary.get('device')}"))
    if summary.get("seconds") is not None:
        facts.append(("time", duration(summary["seconds"])))
    if summary.get("resumed_from"):
        facts.append(("resumed from", str(summary["resumed_from"])))
    return Section(_title("Training", ref), tuple(facts))


def _export(ref: StepRef) -> Section:
    summary = ref.summary
    precisions = list(summary.get("precisions") or [])
    facts = [("graphs", ", ".join(precisions))]
    differences = summary.get("max_difference") or {}
    if differences:
        facts.append(
            ("against checkpoint", ", ".join(f"{name} within {_tiny(differences[name])}" for name in differences))
        )
    sizes = summary.get("size_mb")
    if isinstance(sizes, Mapping):
        facts.append(("size", ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items())))
    elif sizes is not None:
        facts.append(("size", f"{sizes:.1f} MB"))
    return Section(_title("Export", ref), tuple(facts))


def _tiny(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _selection(ref: StepRef) -> Section:
    selection = selection_of(ref)
    names = short_names([one.base for one in selection.candidates])
    facts = [
        ("chosen", f"{names[selection.chosen]}, by {selection.metric} on {_rows(selection.rows)} of validation"),
        ("why", selection.why),
        *candidates_table(selection, names).lines(),
    ]
    if len(selection.candidates) > 1:
        facts.append(("difference", "\n".join(differences(selection, names))))
        facts += agreement_table(selection, names).lines()
    return Section(_title("Selection", ref), tuple(facts))


def selection_of(ref: StepRef) -> Selection:
    """The whole selection: its reference carries it, for it is small."""
    return Selection.model_validate({name: ref.summary[name] for name in Selection.model_fields if name in ref.summary})


def _evaluation(ref: StepRef) -> Section:
    summary = ref.summary
    challenger = summary.get("metrics") or {}
    champion = summary.get("champion_metrics") or {}
    if ref.unchanged:
        return Section("Evaluation", (("champion", summary["champion_version"]), *_each(challenger)))
    facts = [("rows", number(summary.get("rows")))] if summary.get("rows") is not None else []
    for name, value in challenger.items():
        line = number(value)
        if champion:
            before = champion.get(name)
            line += f"   champion {number(before)}"
            if value is not None and before is not None:
                line += f"   {_signed(value - before)}"
        facts.append((name, line))
    latency = summary.get("latency_ms")
    if isinstance(latency, Mapping):
        facts.append(("latency", f"{number(latency.get('p50'))} ms median, {number(latency.get('p95'))} ms p95"))
    version = summary.get("champion_version")
    facts.append(("champion", _champion_words(summary.get("champion_state"), version)))
    return Section(_title("Evaluation", ref), tuple(facts))


def _champion_words(state: Any, version: Any) -> str:
    if state == "unreadable":
        return f"version {version} could not be read" if version else "could not be read"
    return f"version {version}" if version else "none to compare with"


def _each(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, number(value)) for name, value in values.items())


def _decision(ref: StepRef) -> Section:
    summary = ref.summary
    facts = [("verdict", str(summary.get("verdict")))]
    for name, bounds in (summary.get("intervals") or {}).items():
        value = (summary.get("metrics") or {}).get(name)
        interval = f"{summary.get('confidence')} interval [{number(bounds['low'])}, {number(bounds['high'])}]"
        facts.append((name, f"{number(value)}, {interval}"))
    comparison = summary.get("comparison")
    facts.append(("difference", _interval(comparison) if comparison else "not compared with a champion"))
    if summary.get("threshold") is not None:
        facts.append(("wanted", f"the whole interval above {summary['threshold']:+g}"))
    if summary.get("rows_needed") is not None:
        facts.append(("rows needed", f"about {number(summary['rows_needed'])} test rows would tell"))
    reasons = summary.get("reasons") or []
    if reasons:
        facts.append(("reasons", "\n".join(f"{reason['code']}: {reason['detail']}" for reason in reasons)))
    notes = summary.get("notes") or []
    if notes:
        facts.append(("notes", "\n".join(str(note) for note in notes)))
    return Section(_title("Decision", ref), tuple(facts))


def _interval(comparison: Mapping[str, Any]) -> str:
    """The gate's own words for it."""
    values = dict(comparison)
    return describe_interval(Interval.model_validate({"estimate": values.pop("difference"), **values}))


def _published(ref: StepRef) -> Section:
    summary = ref.summary
    facts = [
        ("version", str(summary["version"])),
        ("model", str(summary.get("model", ""))),
        ("store", str(summary["store"])),
        ("channel", str(summary["channel"])),
        ("before", str(summary["previous"]) if summary.get("previous") else "nothing"),
    ]
    if summary.get("precisions"):
        facts.append(("graphs", ", ".join(summary["precisions"])))
    if summary.get("signed_by"):
        facts.append(("signed by", f"key {summary['signed_by']}"))
    if summary.get("sent_bytes") is not None:
        sent, copied = (f"{summary[name] / 1e6:,.1f} MB" for name in ("sent_bytes", "copied_bytes"))
        facts.append(("sent", sent if not summary["copied_bytes"] else f"{sent}; {copied} were in the store already"))
    return Section("Published", tuple(fact for fact in facts if fact[1]))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
