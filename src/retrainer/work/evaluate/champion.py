"""The model that is live, fetched from the store and verified file by file; or why it cannot be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retrainer.artifacts.evaluation import ChampionState
from retrainer.chain import StepRequest
from retrainer.chain.model_store import model_of
from retrainer.errors import NotFoundError, ResourceError, RetrainerError, StorageError
from retrainer.serve.loading import open_predictor
from retrainer.store.bundle import BundleInfo
from retrainer.work.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Champion:
    """The champion.

    :param folder: its bundle; ``None`` unless it is ``present``.
    """

    state: ChampionState
    error: str | None = None
    version: str = ""
    folder: Path | None = None
    info: BundleInfo | None = None


def fetch_champion(request: StepRequest, folder: Path, info: BundleInfo, reporter: Reporter) -> Champion:
    """The champion that the request was planned against.

    Any fault in it makes it "unreadable", which the gate refuses to promote over: a fault must never look like
    "there is no champion". That the store cannot be reached is an error of this step instead.

    :param folder: where its bundle goes; does not exist.
    :param info: of the challenger.
    """
    version = request.identity["champion"]
    state: ChampionState = request.identity["champion_state"]
    if version is None:
        return Champion(state=state, error=request.identity["champion_error"])
    fetched = fetch_version(request, version, folder, info.task)
    if isinstance(fetched, str):
        reporter.log(f"the champion cannot be read: {fetched}", level="warning")
        return Champion(state="unreadable", error=fetched, version=version)
    return Champion(state="present", version=version, folder=folder, info=fetched)


def fetch_version(request: StepRequest, version: str, folder: Path, task: str) -> BundleInfo | str:
    """A published version of the pipeline's model, verified file by file; or why it cannot be compared.

    :param folder: where its bundle goes; does not exist.
    :param task: that it has to be for.
    :raises StorageError: the store cannot be reached.
    """
    model = model_of(request.pipeline)
    try:
        folder.mkdir()
        manifest = model.manifest(version)
        model.fetch(version, folder, [name for name in manifest.files if not name.startswith("checkpoint/")])
        found = open_predictor(folder).info
    except NotFoundError as error:
        return str(error)
    except (StorageError, ResourceError):
        raise
    except RetrainerError as error:
        return str(error)
    return found if found.task == task else f"it answers another task: {found.task}"
