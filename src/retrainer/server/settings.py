"""What a server serves, where and within which limits. Not here: how the command line spells it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from retrainer.errors import UserError
from retrainer.serve.loading import YEAR, Loading
from retrainer.server.batcher import Bounds
from retrainer.store.names import check_name

DEFAULT_CHANNEL = "production"
CHANNEL_SIGN = "@"
# More runs of one model at the same time gain little and take memory; more threads for each shorten them.
MOST_RUNS = 4


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """One model to serve.

    :ivar name: under which it is served, as it was asked for: ``ag-news`` or ``ag-news@staging``.
    """

    name: str
    model: str
    channel: str

    @classmethod
    def parse(cls, text: str, *, channel: str = DEFAULT_CHANNEL) -> ModelAddress:
        """``MODEL`` or ``MODEL@CHANNEL``.

        :param channel: of a model that names none.
        :raises StorageError: no model or channel can be called that.
        """
        model, sign, own = text.partition(CHANNEL_SIGN)
        where = f"the model '{text}'"
        return cls(
            name=text,
            model=check_name("model", model, where=where),
            channel=check_name("channel", own if sign else channel, where=where),
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for.

    :ivar body_bytes: of a request's body.
    :ivar rows: texts, or pairs, of a request.
    :ivar characters: of one text.
    :ivar requests: predictions that are worked on or wait at the same time, over all models.
    """

    body_bytes: int = 4 * 1024 * 1024
    rows: int = 256
    characters: int = 20_000
    requests: int = 1024


def share_cores(cores: int, threads: int | None, runs: int | None) -> tuple[int, int]:
    """Threads of a run, and runs of a model at the same time: what is not given, so that both together use the cores.

    Runs side by side answer more than one run on all cores: the threads of a run wait for each other at each of its
    many small steps. But a single long text is answered faster by several.

    :param cores: that may be used.
    """
    if runs is None:
        runs = max(1, min(MOST_RUNS, cores if threads is None else cores // threads))
    return (max(1, cores // runs) if threads is None else threads), runs


@dataclass(frozen=True, slots=True)
class Settings:
    """All that ``retrainer serve`` is told.

    :ivar port: 0 takes any that is free.
    :ivar threads: of one run; ``None`` for the usable cores.
    :ivar strict: end when a model cannot be loaded for a reason that waiting will not change.
    :ivar watch_interval: seconds between looks at the store.
    :ivar keep_alive: seconds that a connection may be without a request.
    :ivar drain_seconds: from the signal to stop until connections are no longer accepted.
    """

    store: str
    models: tuple[ModelAddress, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    precision: str = "auto"
    threads: int | None = None
    watch_interval: float = 60.0
    cache_dir: Path | None = None
    public_keys: tuple[str, ...] = ()
    token_variable: str | None = None
    token_file: Path | None = None
    strict: bool = False
    # Longer than balancers keep idle connections (60 s is common), so that they close first: a server that closes may
    # cross with a request that is on its way.
    keep_alive: int = 75
    drain_seconds: float = 5.0
    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Refuse what cannot be served.

        :raises UserError: there is no model, or one twice; or a time that no clock can wait for; or a precision or
            number of threads that no model is loaded with.
        """
        Loading(self.precision, self.threads)
        times = {
            "--watch-interval": self.watch_interval,
            "--max-wait-ms": self.bounds.max_wait,
            "--keep-alive": self.keep_alive,
            "--drain-seconds": self.drain_seconds or 1.0,  # which may be 0
        }
        for option, seconds in times.items():
            if not 0 < seconds <= YEAR:  # nor is it so for what is no number
                raise UserError(f"cannot wait for {seconds:g} seconds", where=option, hint="above 0, and up to a year")
        names = [address.name for address in self.models]
        if not names:
            raise UserError("no model to serve")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(
                f"given twice: {', '.join(twice)}", hint="each model once, or MODEL@CHANNEL for each channel"
            )
        if self.token_variable is not None and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.token_variable) is None:
            # Whoever gives the token itself instead of the variable's name must not find it in a log.
            raise UserError(
                "not the name of an environment variable",
                where="--token-env",
                hint="give the variable's name, not the token",
            )
