"""The DAG ``operate_models``: roll a channel back, or promote a version, from Airflow's UI or API.

A move of a published model goes through a DAG run so that Airflow's permissions and audit log apply; the store's own
history names the user. Not here: training or judging anything.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param

from retrainer.airflow.assets import MOVED_MODELS, channel_asset, tell
from retrainer.airflow.connections import signer
from retrainer.airflow.context import actor_of, require_known_conf
from retrainer.airflow.dag_folder import read_folder
from retrainer.airflow.settings import SettingsLike, as_mapping, in_task
from retrainer.chain.model_store import keyring_of
from retrainer.errors import IntegrityError, NotFoundError, PipelineError
from retrainer.spec import Pipeline
from retrainer.spec.publish import Publish
from retrainer.store import ModelStore, Store
from retrainer.store.causes import Cause

OPERATE = "operate_models"
"""The id of the DAG, which the console starts."""

DOC = """
Moves a channel of a published model to another version: back to an earlier champion (`rollback`), or to a version,
or to what another channel serves (`promote`). Every file of the version is verified, and the version is loaded and
asked its golden rows in a process of its own, before the channel moves. The store's history keeps who, why, and the
cause in a word that can be counted. Where the pipeline names a signing key, the move is signed with it.
"""
# Loads each graph as a client does, golden rows included. In a process of its own: it needs onnxruntime.
LOAD = """
import sys
from pathlib import Path
from retrainer.serve.folder import load_folder
from retrainer.serve.loading import Loading
from retrainer.store.bundle import BundleInfo
folder = Path(sys.argv[1])
info = BundleInfo.from_json((folder / "bundle.json").read_bytes(), where="bundle.json")
for precision in info.precisions:
    load_folder(folder, Loading(precision))
"""


class MoveChannelOperator(BaseOperator):  # type: ignore[misc]
    """Point a channel at another version, as the run's ``params`` say.

    Returns the version that the channel serves now, the one before, and whether anything moved. A channel that moved
    makes an event of its asset, as a publication does.

    Retries: moving is idempotent for a named version. A rollback to "the one before" is not retried by the DAG,
    because a second one would go one version further.

    Signing: with the key that the pipeline's ``publish.sign_with`` names, which is loaded before anything moves; a
    version that none of its ``trusted_keys`` signed is not moved to.

    :param models: pipeline name to its ``publish`` section: the store, the keys. The run's params can name no other.
    :param settings: see ``Settings``; of its interpreter ``airflow-retrainer[serve]`` is enough. (templated)
    """

    template_fields: Sequence[str] = ("settings",)
    ui_color = "#f3e3f2"

    def __init__(
        self,
        *,
        models: Mapping[str, Publish],
        settings: SettingsLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"outlets": [MOVED_MODELS], **kwargs})
        self.models = models
        self.settings = as_mapping(settings)

    def execute(self, context: Any) -> dict[str, Any]:
        """Move the channel."""
        with in_task(self.settings, self.log, context) as (settings, _):
            require_known_conf(context)
            return self._move(context, settings.trainer_python)

    def _move(self, context: Any, python: str | None) -> dict[str, Any]:
        params, actor = context["params"], actor_of(context["dag_run"])
        name, channel = params["pipeline"], params["channel"]
        if name not in self.models:
            raise NotFoundError(f"no pipeline '{name}'", hint=f"there are {', '.join(sorted(self.models))}")
        publish = self.models[name]
        store = Store.open(publish.store, signer=signer(publish), trusted=keyring_of(publish))
        model: ModelStore = store.model(name)
        common: dict[str, Any] = {
            "actor": actor,
            "cause": Cause(params["cause"]),
            "reason": params["reason"],
            "check": partial(_require_loads, python or sys.executable),
        }
        if params["action"] == "rollback":
            moved = model.rollback(channel, to=params["version"] or None, **common)
        else:
            source = self._source_of_promotion(params)
            moved = model.promote(channel, **source, **common)
        verb = "now serves" if moved.moved else "already serves"
        self.log.info("%s of %s %s version %s; before: %s", channel, name, verb, moved.version, moved.previous)
        result = {
            "model": name,
            "channel": channel,
            "version": moved.version,
            "previous": moved.previous,
            "moved": moved.moved,
        }
        if moved.moved:
            manifest = model.manifest(moved.version)
            told = {
                "store": publish.store,
                "metrics": manifest.metrics,
                "decision": {"verdict": "promote", "digest": manifest.artifacts.get("decide")},
                **{name: params[name] for name in ("action", "cause", "reason")},
                "actor": actor,
            }
            tell(self, context, channel_asset(name, publish, channel), {**result, **told})
        return result

    def _source_of_promotion(self, params: Mapping[str, Any]) -> dict[str, Any]:
        source = {key: params[key] for key in ("version", "from_channel") if params[key]}
        if len(source) != 1:
            raise PipelineError("to promote, give either 'version' or 'from_channel'", where="params of the run")
        return source


def _require_loads(python: str, folder: Path) -> None:
    answer = subprocess.run([python, "-c", LOAD, str(folder)], capture_output=True, text=True, timeout=600, check=False)
    if answer.returncode != 0:
        said = (answer.stderr.strip() or "no output").splitlines()[-1]
        raise IntegrityError(f"the version cannot be loaded: {said}", hint="the channel was not moved")


def operate_dag(folder: str | Path, *, settings: SettingsLike = None, **dag_kwargs: Any) -> DAG:
    """The DAG that moves channels of the models of a folder of pipelines.

    :param folder: the pipeline files; those that are wrong are left out.
    :param settings: see ``Settings``.
    :param dag_kwargs: arguments of ``airflow.sdk.DAG`` that replace the defaults.
    """
    models: dict[str, Publish] = {}
    for _, content in read_folder(folder):
        if isinstance(content, Pipeline):  # ``build_dags`` says what is wrong with the others
            models.setdefault(content.name, content.publish)
    arguments: dict[str, Any] = {
        "dag_id": OPERATE,
        "schedule": None,
        "catchup": False,
        "max_active_runs": 1,
        "doc_md": DOC,
        "tags": ["retrainer"],
        "params": _params(sorted(models)),
        **dag_kwargs,
    }
    with DAG(**arguments) as dag:
        MoveChannelOperator(task_id="move_channel", models=models, settings=settings, retries=0)
    return dag


def _params(names: list[str]) -> dict[str, Any]:
    choice: dict[str, Any] = {"enum": names} if names else {"minLength": 1}
    return {
        "pipeline": Param(names[0] if names else None, type="string", title="Model", **choice),
        "action": Param("rollback", type="string", enum=["rollback", "promote"], title="What to do"),
        "channel": Param("production", type="string", minLength=1, title="Channel to move"),
        "version": Param(
            None,
            type=["null", "string"],
            title="Version",
            description="To go to. Empty, for a rollback: the champion before the present one.",
        ),
        "from_channel": Param(
            None,
            type=["null", "string"],
            title="From channel",
            description="To promote what another channel serves, instead of naming a version.",
        ),
        "cause": Param(
            Cause.UNSPECIFIED.value,
            type="string",
            enum=[cause.value for cause in Cause.of_people()],
            values_display={cause.value: f"{cause.value}: {cause.meaning}" for cause in Cause.of_people()},
            title="Cause",
            description="In a word that can be counted; the next field says it in full.",
        ),
        "reason": Param(
            None,
            type="string",
            minLength=1,
            title="Why",
            description="Stays in the store's history, with your name.",
        ),
    }
