"""``retrainer predict --compare``: several models side by side on the same texts.

A model is named by its place: a bundle's folder, the dated folder of a run (each model that it exported), or
``STORE/MODEL``, ``STORE/MODEL@CHANNEL`` and ``STORE/MODEL@VERSION``. Not here: where texts come from
(``predict_command``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from retrainer.cli import display
from retrainer.errors import NotFoundError, UserError
from retrainer.tasks import TASKS

if TYPE_CHECKING:
    from retrainer.serve import Classifier
    from retrainer.serve.predictions import TopK

# Of a text to which none applies.
NO_LABEL = "(no label)"
Text = str | tuple[str, str]
BUNDLE, BUNDLES, RUN = "bundle.json", "bundle", "run.json"


def asked_for(top_k: int | None) -> TopK:
    """What ``--top-k`` asks for: 0 is all, and without it is asked for what the model gives."""
    return "given" if top_k is None else top_k or None


def open_places(
    places: Sequence[str], stack: ExitStack, *, precision: str, public_keys: list[str] | None
) -> dict[str, Classifier]:
    """The models of all places, each by a name of its own, in order.

    :param stack: closes them.
    :raises NotFoundError: there is no model at a place.
    :raises UserError: some read pairs of texts and others single ones.
    """
    found: dict[str, Classifier] = {}
    for place in places:
        for name, classifier in _models_at(place, precision, public_keys):
            stack.enter_context(classifier)
            number = 1 + sum(taken == name or taken.startswith(f"{name} (") for taken in found)
            found[name if number == 1 else f"{name} ({number})"] = classifier
    tasks = {classifier.task: name for name, classifier in found.items()}
    if len(tasks) > 1:
        (first, one), (second, other) = list(tasks.items())[:2]
        raise UserError(
            f"{one} is for {first} and {other} for {second}: no text is one for both",
            hint="compare models of one task",
        )
    return found


def _models_at(place: str, precision: str, public_keys: list[str] | None) -> Iterator[tuple[str, Classifier]]:
    from retrainer.run.folders import exported_in
    from retrainer.serve import Classifier
    from retrainer.storage import open_storage
    from retrainer.store.names import is_version

    storage = open_storage(place)
    here = storage.local_path("")
    if here is not None:
        for bundle in (here, here / BUNDLES):
            if (bundle / BUNDLE).is_file():
                yield here.name if here.name != BUNDLES else here.parent.name, _of_folder(bundle, precision)
                return
    if storage.exists(RUN):
        for name, bundle in exported_in(place).items():
            yield name, _of_folder(bundle, precision)
        return
    store, model, pointer = _in_a_store(place)
    which: Any = {"version": pointer} if is_version(pointer) else {"channel": pointer} if pointer else {}
    try:
        classifier = Classifier.from_store(store, model, precision=precision, public_keys=public_keys or None, **which)
    except NotFoundError as error:
        raise NotFoundError(
            f"no model is there: {error.message}",
            where=place,
            hint="give a bundle's folder, a run's folder, or STORE/MODEL with @CHANNEL or @VERSION",
        ) from None
    yield (f"{model}@{pointer}" if pointer else model), classifier


def _of_folder(bundle: Path, precision: str) -> Classifier:
    from retrainer.serve import Classifier

    return Classifier.from_folder(bundle, precision=precision)


def _in_a_store(place: str) -> tuple[str, str, str]:
    """``STORE/MODEL@POINTER`` in its parts; the pointer may be missing."""
    store, _, last = place.rstrip("/").rpartition("/")
    model, _, pointer = last.partition("@")
    return store or ".", model, pointer


def print_compared(
    models: Mapping[str, Classifier], batches: Iterable[list[Text]], *, top_k: TopK, as_json: bool
) -> None:
    """What each model answers to each text: a table with a column a model, or a JSON object a line.

    :param top_k: of the JSON, how many labels.
    """
    from retrainer.serve.predictions import cut, given

    rows, same = [], 0
    for batch in batches:
        answers = {name: one.respond(cast(Any, batch), top_k=None).predictions for name, one in models.items()}
        for at, text in enumerate(batch):
            ranked = {name: said[at] for name, said in answers.items()}
            if as_json:
                asked = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
                labels = {name: cut(said, top_k) for name, said in ranked.items()}
                sys.stdout.write(json.dumps({**asked, "models": labels}, ensure_ascii=False) + "\n")
                continue
            said = [given(labels) for labels in ranked.values()]
            agree = len({frozenset(one["label"] for one in labels) for labels in said}) == 1
            same += agree
            shown = text if isinstance(text, str) else " | ".join(text)
            cells = [", ".join(f"{one['label']} {one['score']:.4f}" for one in labels) or NO_LABEL for labels in said]
            rows.append([*cells, "" if agree else "differ", shown])
    if not as_json:
        display.print_table([*models, "", "text"], rows)
        if len(models) > 1:
            what = "label" if TASKS[next(iter(models.values())).task].writes == "label" else "labels"
            display.stdout().print(f"{len(models)} models say the same {what} for {same:,} of {len(rows):,} texts")
