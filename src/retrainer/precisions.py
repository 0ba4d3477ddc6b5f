"""The precisions that a graph can be exported in, one entry each. A new one is its maker and an entry here.

Light, and below everything that asks. Not here: how a graph is made (``work/export``), judged (``gate/precisions.py``)
and chosen on a host (``serve/loading.py``).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One precision.

    :param file: its graph in a bundle; other runtimes of the ecosystem look for it under that name.
    :param made_by: ``package.module:name`` of what makes the graph from that of the reference, called with both paths;
        ``None`` for the reference itself, which the task's exporter makes from the checkpoint.
    :param exact: whether it must give the checkpoint's logits within the tolerance of the export. Otherwise it is
        judged by statistics, against the reference on the test rows, and left out if it is worse.
    :param golden_tolerance: largest difference of a logit between the host that made a bundle and one that serves it.
    :param depends_on_processor: whether its answers do: then the bundle says on which processor it was verified.
    """

    name: str
    file: str
    made_by: str | None
    exact: bool
    golden_tolerance: float
    depends_on_processor: bool

    def graph(self, stem: str) -> str:
        """The file of one of several graphs, such as ``decoder_model_merged``; ``model`` gives ``file`` itself."""
        return self.file.replace("/model", f"/{stem}", 1)

    def maker(self) -> Any:
        """What ``made_by`` names, imported now; there must be one."""
        return pkgutil.resolve_name(str(self.made_by))


# What the verdict is about, every bundle has, and every host can serve.
REFERENCE = "fp32"

# Last those that a client would rather serve, where their golden rows agree on its host.
PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision(
            name=REFERENCE,
            file="onnx/model.onnx",
            made_by=None,
            exact=True,
            golden_tolerance=2e-3,  # only the order of sums differs
            depends_on_processor=False,
        ),
        Precision(
            name="int8",
            file="onnx/model_int8.onnx",
            made_by="retrainer.work.export.graph:quantize",
            exact=False,
            golden_tolerance=0.1,  # a rounding that falls the other way moves an activation by a whole step
            depends_on_processor=True,
        ),
    )
}
