"""What of a deployment a visitor may see, and reading it: the models, a channel, a decision's receipt and files.

Every page starts here, so that what is hidden looks on each of them like what is not there. Not here: who may
(``host.Visitor``).
"""

from __future__ import annotations

from retrainer.artifacts.repository import Artifacts
from retrainer.console.decision import read_file, read_receipt, refuse_other_than_digest
from retrainer.console.host import Catalogue, Host, Shown, Visitor
from retrainer.console.stores import Problem, Stores
from retrainer.errors import NotFoundError, StorageError
from retrainer.gate.receipt import Receipt
from retrainer.store.names import is_name


class Access:
    """To the models of a host."""

    def __init__(self, host: Host, stores: Stores) -> None:
        self.host = host
        self.stores = stores

    def readable(self, catalogue: Catalogue, who: Visitor) -> list[Shown]:
        """The models that they may see."""
        allowed = who.readable({one.dag_id for one in catalogue.models})
        return [one for one in catalogue.models if one.dag_id in allowed]

    def shown(self, who: Visitor, name: str) -> Shown:
        """The model of that name. Of one that may not be seen it is said that there is none."""
        shown = self.readable(self.host.catalogue(), who)
        one = next((one for one in shown if one.name == name), None)
        if one is None:
            raise NotFoundError(f"there is no model '{name}' that you may see")
        return one

    def receipt(self, one: Shown, root: str, decision: str) -> Receipt:
        """Of a decision about that model."""
        refuse_other_than_digest(decision)
        found = self.stores.ask(root, ("receipt", root, decision), lambda: read_receipt(Artifacts(root), decision))
        if isinstance(found, Problem):
            raise NotFoundError(f"the decision {decision[:12]} cannot be read: {found.text}", where=root)
        receipt = Receipt.from_json(found.data, where=found.where)
        if receipt.model != one.name:
            raise NotFoundError(f"'{one.name}' has no decision {decision[:12]}")
        return receipt

    def file_of_decision(self, root: str, decision: str, name: str) -> bytes:
        """A file that the decide step left."""

        def read() -> bytes:
            return read_file(Artifacts(root), decision, name)

        content = self.stores.ask(root, (name, root, decision), read)
        if not isinstance(content, bytes):
            raise StorageError(content.text, where=root)
        return content


def channel_of(one: Shown, channel: str | None) -> str:
    """The channel that a page is about: the one that was asked for, else the pipeline's."""
    if channel is None:
        return one.pipeline.publish.channel
    if not is_name(channel):
        raise NotFoundError(f"there is no channel '{channel}'")
    return channel
