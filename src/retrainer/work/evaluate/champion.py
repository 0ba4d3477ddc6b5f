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
    model = model_of(request.pipeline)
    try:
        folder.mkdir()
        manifest = model.manifest(version)
        wanted = [name for name in manifest.files if not name.startswith("checkpoint/")]
        model.fetch(version, folder, wanted)
        champion = open_predictor(folder)
        if champion.info.task != info.task:
            return Champion(state="unreadable", error=f"it answers another task: {champion.info.task}", version=version)
    except NotFoundError as error:
        return Champion(state="unreadable", error=str(error), version=version)
    except (StorageError, ResourceError):
        raise
    except RetrainerError as error:
        reporter.log(f"the champion cannot be read: {error}", level="warning")
        return Champion(state="unreadable", error=str(error), version=version)
    return Champion(state="present", version=version, folder=folder, info=champion.info)
