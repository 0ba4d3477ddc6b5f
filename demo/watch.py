"""A DAG run on the terminal while it happens: each task's state, and what its log says."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from demo.rest_client import LogLine, RestClient, TaskInstance

POLL_SECONDS = 0.7
MARKS = {
    "success": "[green]✓[/green]",
    "skipped": "[yellow]–[/yellow]",
    "failed": "[red]✗[/red]",
    "upstream_failed": "[red]✗[/red]",
    "up_for_retry": "[red]↻[/red]",
}


class RunFailed(Exception):
    """A run ended in failure. The message holds the end of the failed task's log."""


def watch_run(
    client: RestClient, dag_id: str, run_id: str, order: Sequence[str], console: Console
) -> dict[str, str | None]:
    """Show a run until it has ended.

    :param order: the tasks, first to last.
    :return: task to final state.
    :raises RunFailed: it failed.
    """
    watch = _Watch(client, dag_id, run_id, console)
    while True:
        ended = client.run_state(dag_id, run_id) in {"success", "failed"}
        tasks = {task.task_id: task for task in client.tasks(dag_id, run_id)}
        for name in order:
            if name in tasks:
                watch.show(tasks[name])
        if ended:
            break
        time.sleep(POLL_SECONDS)
    failed = [task for task in tasks.values() if task.state == "failed"]
    if failed:
        raise RunFailed(f"{failed[0].task_id} failed:\n{watch.log_tail(failed[0])}")
    return {name: task.state for name, task in tasks.items()}


class _Watch:
    """What was shown of each task already."""

    def __init__(self, client: RestClient, dag_id: str, run_id: str, console: Console) -> None:
        self._client = client
        self._dag_id = dag_id
        self._run_id = run_id
        self._console = console
        self._shown: dict[tuple[str, int], int] = {}
        self._states: dict[tuple[str, int], str] = {}

    def show(self, task: TaskInstance) -> None:
        """Whatever is new of a task."""
        key = (task.task_id, task.try_number)
        before = self._states.get(key)
        if before in MARKS or task.state in {None, "scheduled", "queued"}:
            return
        if before is None and task.state != "skipped":
            again = f", try {task.try_number}" if task.try_number > 1 else ""
            self._console.print(f"  [bold]{task.task_id}[/bold]{again}")
        if task.state != "skipped":
            self._new_lines(task)
        if task.state in MARKS and task.state != before:
            seconds = f"{task.seconds:.1f} s" if task.state != "skipped" else ""
            name = f"[bold]{task.task_id}[/bold] " if task.state == "skipped" else ""
            self._console.print(f"  {MARKS[task.state]} {name}{task.state} {seconds}".rstrip())
        self._states[key] = str(task.state)

    def _new_lines(self, task: TaskInstance) -> None:
        key = (task.task_id, task.try_number)
        lines = [line for line in self._log(task) if is_step_line(line)]
        for line in lines[self._shown.get(key, 0) :]:
            style = "yellow" if line.level in {"warning", "error"} else "dim"
            self._console.print(f"      [{style}]{escape(line.text)}[/{style}]", highlight=False)
        self._shown[key] = len(lines)

    def log_tail(self, task: TaskInstance) -> str:
        """The end of a task's log."""
        return "\n".join(line.text for line in self._log(task)[-15:])

    def _log(self, task: TaskInstance) -> list[LogLine]:
        return self._client.log(self._dag_id, self._run_id, task.task_id, task.try_number)


def is_step_line(line: LogLine) -> bool:
    """Whether an operator of this project wrote the line, and not Airflow around it."""
    return "retrainer" in line.logger
