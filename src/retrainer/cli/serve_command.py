"""``retrainer serve``: published models behind HTTP. Not here: the server (``retrainer.server``)."""

from __future__ import annotations

import ast
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from retrainer.cli.display import show_error
from retrainer.cli.libraries import require
from retrainer.cli.store_options import DEFAULT_CHANNEL, ChannelOption, PublicKeysOption, StoreArgument
from retrainer.errors import RetrainerError
from retrainer.precisions import PRECISIONS
from retrainer.tasks import TASKS, TaskDefinition

if TYPE_CHECKING:
    from retrainer.server.settings import Settings

WATCH, BATCHES, LIMITS, STOPPING, ACCESS = "Models", "Batches", "Limits", "Stopping", "Who may ask"


def serve(
    store: StoreArgument,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="The models, each as MODEL or MODEL@CHANNEL; served under that name.",
            show_default=False,
        ),
    ],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 8000,
    channel: ChannelOption = DEFAULT_CHANNEL,
    precision: Annotated[
        str, typer.Option(metavar="NAME", help=f"{', '.join(PRECISIONS)}, or auto.", rich_help_panel=WATCH)
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads of one run.", show_default="the cores, shared by the runs", rich_help_panel=WATCH
        ),
    ] = None,
    parallel_runs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Runs of one model at the same time.",
            show_default="one for each core, at most 4",
            rich_help_panel=WATCH,
        ),
    ] = None,
    watch_interval: Annotated[
        float,
        typer.Option(
            "--watch-interval", min=0.1, metavar="SECONDS", help="Between looks at the store.", rich_help_panel=WATCH
        ),
    ] = 60.0,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For verified copies; they serve when the store cannot be reached.",
            show_default="$RETRAINER_CACHE/models, else ~/.cache/retrainer/models",
            rich_help_panel=WATCH,
        ),
    ] = None,
    public_key: PublicKeysOption = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="End with an error when a model cannot be loaded and waiting will not help, such as one that the "
            "store does not have. Otherwise it is tried again and again, and readiness tells.",
            rich_help_panel=WATCH,
        ),
    ] = False,
    token_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Ask for one of the bearer tokens in this environment variable (with spaces between them).",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ask for one of the bearer tokens in this file, one a line. Read again when it changes.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    max_wait_ms: Annotated[
        float,
        typer.Option(
            min=1.0,
            metavar="MS",
            help="Refuse (503) a request that would wait longer for its turn.",
            rich_help_panel=BATCHES,
        ),
    ] = 500.0,
    max_run_tokens: Annotated[
        int,
        typer.Option(min=1, metavar="TOKENS", help="Tokens that go through a model together.", rich_help_panel=BATCHES),
    ] = 2048,
    max_queue_rows: Annotated[
        int, typer.Option(min=1, metavar="ROWS", help="Texts that may wait, for each model.", rich_help_panel=BATCHES)
    ] = 8192,
    max_rows: Annotated[
        int, typer.Option(min=1, metavar="ROWS", help="Texts of a request.", rich_help_panel=LIMITS)
    ] = 256,
    max_characters: Annotated[
        int, typer.Option(min=1, metavar="N", help="Characters of a text.", rich_help_panel=LIMITS)
    ] = 20_000,
    max_body_bytes: Annotated[
        int, typer.Option(min=1, metavar="BYTES", help="Of a request's body.", rich_help_panel=LIMITS)
    ] = 4 * 1024 * 1024,
    max_requests: Annotated[
        int, typer.Option(min=1, metavar="N", help="Predictions under way at the same time.", rich_help_panel=LIMITS)
    ] = 1024,
    keep_alive: Annotated[
        int,
        typer.Option(min=1, metavar="SECONDS", help="For a connection without a request.", rich_help_panel=LIMITS),
    ] = 75,
    drain_seconds: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="From a signal to stop until no more connections are accepted; all requests are answered meanwhile.",
            rich_help_panel=STOPPING,
        ),
    ] = 5.0,
) -> None:
    """Serve published models over HTTP, and each newer version as soon as its channel points at it.

    The port opens at once. /readyz tells when all models are loaded, /docs what can be asked.
    """
    require("serve")
    require("server")
    from retrainer.serve.cores import usable_cores
    from retrainer.server.batcher import Bounds
    from retrainer.server.settings import Limits, ModelAddress, Settings, share_cores

    threads, runs = share_cores(usable_cores(), threads, parallel_runs)
    _run(
        Settings(
            store=store,
            models=tuple(ModelAddress.parse(text, channel=channel) for text in models),
            host=host,
            port=port,
            precision=precision,
            threads=threads,
            watch_interval=watch_interval,
            cache_dir=cache_dir,
            public_keys=tuple(public_key or ()),
            token_variable=token_env,
            token_file=token_file,
            strict=strict,
            keep_alive=keep_alive,
            drain_seconds=drain_seconds,
            limits=Limits(
                body_bytes=max_body_bytes,
                rows=max_rows,
                characters=max_characters,
                requests=max_requests,
            ),
            bounds=Bounds(
                max_wait=max_wait_ms / 1000,
                run_tokens=max_run_tokens,
                queue_rows=max_queue_rows,
                lanes=runs,
            ),
        )
    )


def _run(settings: Settings) -> None:
    from retrainer.cli.store_options import trusted_keys
    from retrainer.server.log_lines import log_to_stderr
    from retrainer.server.server import Server, listen, url_of
    from retrainer.server.tokens import Tokens
    from retrainer.storage import open_storage

    # What is wrong with the command itself is told before anything starts; the store is looked at in the background.
    open_storage(settings.store)
    trusted_keys(list(settings.public_keys))
    tokens = Tokens(variable=settings.token_variable, file=settings.token_file)
    listener = listen(settings.host, settings.port)
    url = url_of(listener)

    def show_example(name: str, task: str) -> None:
        if name == settings.models[0].name:
            typer.echo(_example(url, name, TASKS[task], tokens.required))

    server = Server(settings, listener, tokens, ready=show_example)
    log_to_stderr()
    typer.echo(f"serving {', '.join(address.name for address in settings.models)} at {url}")
    try:
        server.serve_until_told()
    except RetrainerError as error:
        show_error(error)
        _end(1)
    _end(0)


def _end(code: int) -> NoReturn:
    """End the process at once: threads that wait for a store which does not answer would hold it up for minutes."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _example(url: str, name: str, task: TaskDefinition, token: bool) -> str:
    """How a model is asked. Its task is known when it is loaded."""
    from retrainer.server.asking import ROUTES

    header = ' -H "Authorization: Bearer $TOKEN"' if token else ""
    body = shlex.quote(json.dumps({"text": ast.literal_eval(task.example)}))
    address = f"{url}/v1/models/{name}{ROUTES[task.answers_with]}"
    return f"curl {address}{header} -H 'Content-Type: application/json' -d {body}"
