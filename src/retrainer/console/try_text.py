"""The page on which a visitor asks a version something. The text is kept nowhere: not in an address, a log or a record.

Not here: the process that answers (``host.Trials``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retrainer.chain.model_store import model_of
from retrainer.chain.trial import MOST_CHARACTERS, Trial, Tried
from retrainer.console.host import Shown
from retrainer.console.stores import Problem, Stores
from retrainer.errors import NotAllowed, StorageError, UserError
from retrainer.records import Record
from retrainer.store import Manifest, Move
from retrainer.store.move import STAYS
from retrainer.store.names import check_version
from retrainer.tasks import TASKS

# Versions that the list offers; any other can be named in the address.
MOST_VERSIONS = 30
SWITCH = "console_try = true in the section [retrainer] of airflow.cfg"
_LATEST_MOVES = 100


class TryPage(Record):
    """The page.

    :ivar versions: that were live on the channel, the present one first.
    :ivar pairs: the model reads two texts.
    :ivar text: as it was asked; ``pair`` likewise.
    :ivar wrong: why there is no answer.
    """

    model: str
    channel: str
    version: str | None
    versions: tuple[str, ...]
    champion: str | None
    pairs: bool
    most_characters: int = MOST_CHARACTERS
    text: str = ""
    pair: str = ""
    tried: Tried | None = None
    wrong: str | None = None


def try_page(one: Shown, channel: str, version: str | None, stores: Stores) -> TryPage:
    """The page before anything is asked.

    :raises StorageError: the store does not say what there is.
    """
    key = ("log", one.store, one.name, channel)
    found = stores.ask(one.store, key, lambda: tuple(model_of(one.pipeline).history(channel, limit=_LATEST_MOVES)))
    if isinstance(found, Problem):
        raise StorageError(found.text, where=one.store)
    if version is not None:
        check_version(version, where=one.name)
    return page_of(one, channel, version, found)


def page_of(one: Shown, channel: str, version: str | None, moves: Iterable[Move]) -> TryPage:
    """The same where the moves of the channel are known, the newest first."""
    versions = tuple(dict.fromkeys(move.to_version for move in moves if move.action not in STAYS))
    champion = versions[0] if versions else None
    listed = versions[:MOST_VERSIONS]
    return TryPage(
        model=one.name,
        channel=channel,
        version=version or champion,
        versions=listed if version is None or version in listed else (version, *listed),
        champion=champion,
        pairs=TASKS[one.pipeline.task].texts == 2,
    )


def trial_of(one: Shown, page: TryPage, given: Mapping[str, str], stores: Stores) -> Trial:
    """What a form asks.

    :raises UserError: a text is missing or too long.
    :raises StorageError: there is no such version.
    """
    if page.version is None:
        raise UserError("there is no version to ask yet")
    texts = {"text": given.get("text", ""), **({"pair": given.get("pair", "")} if page.pairs else {})}
    for text in texts.values():
        if not text.strip():
            raise UserError("both texts are needed: the model reads pairs" if page.pairs else "there is no text")
        if len(text) > MOST_CHARACTERS:
            raise UserError(f"a text has more than {MOST_CHARACTERS:,} characters")
    version = page.version

    def read() -> Manifest:
        return model_of(one.pipeline).manifest(version)

    manifest = stores.ask(one.store, ("manifest", one.store, one.name, version), read)
    if isinstance(manifest, Problem):
        raise StorageError(manifest.text, where=one.store)
    return Trial(
        store=one.store,
        model=one.name,
        version=version,
        task=manifest.task,
        keys=tuple(map(str, one.pipeline.publish.trusted_keys)),
        size=manifest.size,
        **texts,
    )


def refuse_unless(switched_on: Any, may_read_texts: bool) -> None:
    """Insist that a visitor may try texts here.

    :raises NotAllowed: they may not, or nobody may.
    """
    if switched_on is None:
        raise NotAllowed("trying texts is not switched on here", hint=f"whoever runs Airflow can: {SWITCH}")
    if not may_read_texts:
        raise NotAllowed("you may not try texts", hint="whoever may read the task logs of the model's DAG may")
