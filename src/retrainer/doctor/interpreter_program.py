"""Asked of the interpreter that trains, with ``-c``: what it is, which packages it has, which GPUs torch sees.

It may be any Python, with another version of this package or without it: so nothing of ours is imported but the
package's name, and nothing newer than Python 3.8 is written. Prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from typing import Any

DISTRIBUTION = "airflow-retrainer"
# Whose import finds out what is installed and broken all the same.
TRIED = ("torch", "transformers", "onnxruntime")


def unmet() -> list[dict[str, str | None]] | None:
    """What the extra ``train`` asks for and is not there in that version; ``None`` where that cannot be found out."""
    try:
        from packaging.requirements import Requirement

        required = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except (ImportError, metadata.PackageNotFoundError):
        return None
    missing = []
    for one in required:
        if one.marker is not None and not one.marker.evaluate({"extra": "train"}):
            continue
        try:
            version: str | None = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None or not one.specifier.contains(version, prereleases=True):
            missing.append({"needed": f"{one.name}{one.specifier}", "found": version})
    return missing


def devices() -> dict[str, Any]:
    """What torch says of CUDA."""
    torch: Any = sys.modules["torch"]
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "built_for": torch.version.cuda or getattr(torch.version, "hip", None),
        "devices": [{"name": one.name, "bytes": one.total_memory} for one in found],
    }


def main() -> None:
    """Print the answer."""
    answer: dict[str, Any] = {"python": sys.version.split()[0], "executable": sys.executable, "packages": {}}
    answer.update(retrainer=None, failed={}, cuda=None)
    for name in ("retrainer", *TRIED):
        try:
            version = str(getattr(importlib.import_module(name), "__version__", "?"))
        except ModuleNotFoundError as error:
            if error.name != name:
                answer["failed"][name] = str(error)
        except Exception as error:  # noqa: BLE001  a broken library raises what it likes; all of it is told
            answer["failed"][name] = f"{type(error).__name__}: {error}"
        else:
            if name == "retrainer":
                answer["retrainer"] = version
            else:
                answer["packages"][name] = version
    if "torch" in answer["packages"]:
        try:
            answer["cuda"] = devices()
        except Exception as error:  # noqa: BLE001  of the driver, or a device that nobody else may use
            answer["failed"]["torch.cuda"] = f"{type(error).__name__}: {error}"
    answer["unmet"] = unmet()
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
