"""What the first page of the console costs with many models: time on a folder, requests and time in a bucket.

``python -m benchmarks.console [--models 50] [--versions 20] [--serve]``; with ``--serve`` the small deployment can be
looked at in a browser.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fastapi.testclient import TestClient

from benchmarks.deployment import Deployment, FolderHost, runs_of, small_deployment
from benchmarks.published import CHANNEL, make_manifest, server
from benchmarks.table import show
from retrainer.console.app import console_app
from retrainer.console.host import Everybody
from retrainer.records import digest_of
from retrainer.storage import Storage, open_storage
from retrainer.store import Cause, FileEntry, Move
from retrainer.store.entry import Entry, Event, Look, Spent, Verdict
from retrainer.store.move import RECENT_MOVES, Hint
from retrainer.store.names import entry_key, hint_key, move_key, summary_key, version_key
from retrainer.store.summary import Figure, Judged, make_summary

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def fill(storage: Storage, model: str, versions: int) -> None:
    """A model with so many versions and some refused challengers, past the front door; its summary as publishers leave
    it.
    """
    before: Move | None = None
    hashes: tuple[str, ...] = ()
    entries: list[Entry] = []
    for number in range(versions):
        at = (BEGIN + timedelta(hours=24 * number)).isoformat(timespec="microseconds")
        name = f"{model}-{number}"
        decision = digest_of({"decision": name})
        if number % 4 == 0:
            _decide(entries, model, digest_of({"refused": name}), "refuse", ("worse_than_champion",), at)
        _decide(entries, model, decision, "promote", (), at)
        files = {"onnx/model.onnx": FileEntry(size=1, sha256=digest_of({"graph": name}))}
        manifest = make_manifest(name, files).model_copy(update={"model": model})
        data = manifest.to_pretty_json().encode()
        storage.write(version_key(model, manifest.version), data)
        before = Move(
            model=model,
            channel=CHANNEL,
            sequence=number + 1,
            action="publish",
            from_version=before.to_version if before else None,
            to_version=manifest.version,
            manifest_sha256=_sha256(data),
            actor="ada",
            at=at,
            cause=Cause.GATE,
            reason="the statistics promoted it",
            decision=decision,
            anchor=before.anchor if before else manifest.version,
            ledger=entries[-1].sha256,
            previous=before.sha256 if before else None,
            origin=before.begun_by if before else None,
        )
        hashes = (before.sha256, *hashes)[:RECENT_MOVES]
        storage.write(move_key(model, CHANNEL, before.sequence), before.written())
    storage.write(hint_key(model, CHANNEL), Hint(sequence=versions, hashes=hashes).to_pretty_json().encode())
    for entry in entries:
        storage.write(entry_key(model, entry.sequence), entry.written())
    summary = make_summary(storage, model)
    judged = Judged(
        texts=(
            "accuracy differs by -0.0125, interval [-0.0199, -0.0051] on 4,000 rows; the whole must be above -0.01",
        ),
        metric="accuracy",
        difference=Figure(value=-0.0125, low=-0.0199, high=-0.0051),
        threshold=-0.01,
        metrics={"accuracy": Figure(value=0.89, low=0.88, high=0.9)},
        drift="none",
    )
    channel = summary.of(CHANNEL)
    decisions = tuple(one.model_copy(update={"judged": judged}) for one in channel.decisions)
    told = summary.model_copy(update={"channels": {CHANNEL: channel.model_copy(update={"decisions": decisions})}})
    storage.write(summary_key(model), told.to_json())


def _decide(entries: list[Entry], model: str, decision: str, verdict: str, reasons: tuple[str, ...], at: str) -> None:
    look = Look(channel=CHANNEL, challenger=decision, evaluation=decision, rows=decision, row_count=4000)
    number = len(entries)
    spent = Spent(
        channel=CHANNEL,
        look=number + 1,
        evaluation=decision,
        champion=None,
        anchor=None,
        metric="accuracy",
        standing=decision,
        level=None,
    )
    said = {"channel": CHANNEL, "spent": number + 2, "decision": decision, "receipt": decision, "verdict": verdict}
    events: list[Event] = [look, spent, Verdict.model_validate({**said, "reasons": reasons})]
    for event in events:
        entries.append(
            Entry(
                model=model,
                sequence=len(entries) + 1,
                previous=entries[-1].sha256 if entries else None,
                actor="ada",
                run="night",
                at=at,
                event=event,
            )
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def deployment(folder: Path, store: str, models: int, versions: int) -> Deployment:
    """Pipelines of so many models, whose store is filled."""
    made = Deployment(folder)
    storage = open_storage(store)
    for number in range(models):
        name = f"model-{number:03d}"
        made.add(name, publish={"store": store})
        fill(storage, name, versions)
    return made


def anybody() -> Everybody:
    """Who asks."""
    return Everybody()


def client_of(made: Deployment) -> TestClient:
    """A console that nobody asked yet."""
    return TestClient(console_app(FolderHost(made, runs_of(made)), anybody))


def measured(made: Deployment, requests: Callable[[], int], rounds: int) -> list[str]:
    """Cold and warm time in ms, bytes, requests cold; a page that is asked again after its answers went stale."""
    cold, asked, warm, again, used, size = [], [], [], [], [], 0
    for _ in range(rounds):
        client = client_of(made)
        before = requests()
        cold.append(_timed(client))
        time.sleep(3.1)
        asked.append(requests() - before)
        again.append(_timed(client))
        for _ in range(5):
            started = time.process_time()
            warm.append(_timed(client))
            used.append(time.process_time() - started)
        size = len(client.get("/").content)
    figures = (statistics.median(cold), statistics.median(again), statistics.median(warm), statistics.median(used))
    return [*(f"{seconds * 1000:.0f}" for seconds in figures), f"{size / 1000:.0f}", str(max(asked))]


def _timed(client: TestClient) -> float:
    started = time.perf_counter()
    answer = client.get("/")
    seconds = time.perf_counter() - started
    assert answer.status_code == 200
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.serve:
            serve(folder)
            return
        on_folder = deployment(folder / "one", str(folder / "store"), arguments.models, arguments.versions)
        rows = [["on a folder", *measured(on_folder, lambda: 0, arguments.rounds)]]
        with server() as s3:
            url = s3.bucket("models")
            in_bucket = deployment(folder / "two", url, arguments.models, arguments.versions)
            rows.append(["in a bucket", *measured(in_bucket, lambda: s3.requests, arguments.rounds)])
    show(
        f"The first page: {arguments.models} models of {arguments.versions} versions each",
        ["", "cold, ms", "after 3 s, ms", "warm, ms", "of them CPU", "kB", "requests cold"],
        rows,
        "medians; the server of the bucket is moto, in the same process and one request at a time; requests include "
        "those that check champions after the page was sent",
    )


def serve(folder: Path) -> None:
    """The small deployment on a port, until it is stopped."""
    import uvicorn

    made = small_deployment(folder)
    app = console_app(FolderHost(made, runs_of(made)), anybody)
    uvicorn.run(app, port=8765)


if __name__ == "__main__":
    main()
