"""The DAG files and the plugin that retrainer ships, written into a folder of Airflow for ``retrainer init --airflow``.

Not here: what is in them (``dags/``, ``plugins/``).
"""

from __future__ import annotations

from pathlib import Path

from retrainer.errors import UserError

# A wheel has them beside the package's modules; a checkout has them at its root.
_PACKAGE = Path(__file__).parent.parent
_PLACES = (_PACKAGE / "airflow" / "shipped", _PACKAGE.parent.parent)
FOLDERS = ("dags", "plugins")
# Below Airflow's home; the DAG files look for pipelines there, and its absence is an error to them.
PIPELINES = Path("dags", "pipelines")


def shipped_files() -> dict[str, str]:
    """Path below Airflow's home to content: ``dags/retrain.py`` and the others."""
    place = next(place for place in _PLACES if (place / FOLDERS[0] / "retrain.py").is_file())
    files = sorted(file for folder in FOLDERS for file in (place / folder).glob("*.py"))
    return {str(file.relative_to(place)): file.read_text(encoding="utf-8") for file in files}


def write_airflow_files(home: Path, *, force: bool) -> list[str]:
    """Write them. One that is there already, as it would be written, is left alone.

    :return: the paths below the folder.
    :raises UserError: one is there with another content, and ``force`` is not given; nothing was written. Or the
        folder cannot be written to.
    """
    files = shipped_files()
    try:
        for name, content in files.items():
            target = home / name
            if not force and target.exists() and target.read_text(encoding="utf-8", errors="replace") != content:
                raise UserError("is there already, and differs", where=str(target), hint="--force writes over it")
        (home / PIPELINES).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(error.filename or home)) from None
    return list(files)
