"""What this machine's processor offers of that on which the results of int8 products depend.

Dynamic int8 multiplies unsigned activations with signed weights. x86 without VNNI adds pairs of such products in 16
bits, which saturates; with VNNI or AMX, and on arm, the sum has 32 bits. So the same graph gives other answers on
another processor (onnxruntime, *Quantize ONNX Models*, "When and why do I need to try U8U8?"). A bundle says under
which processor its int8 graph was verified; whether it may be served on another is not decided by these names but by
the golden rows (``golden.py``).
"""

from __future__ import annotations

import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# As Linux names them: x86 in the line "flags", arm in the line "Features".
FEATURES = frozenset(
    {
        "amx_int8",
        "avx2",
        "avx512_vnni",
        "avx512bw",
        "avx512f",
        "avx512vl",
        "avx_vnni",
        "asimddp",
        "i8mm",
    }
)
_LINES = frozenset({"flags", "Features"})


def cpu_features(cpu_info: Path = CPU_INFO, known: frozenset[str] = FEATURES) -> tuple[str, ...]:
    """The architecture, then those features that every core has, in order: ``x86_64``, ``avx2``, ``avx512_vnni``.

    Only the architecture where the kernel does not tell more.
    """
    try:
        lines = cpu_info.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    cores = [
        set(value.split()) & known
        for name, _, value in (line.partition(":") for line in lines)
        if name.strip() in _LINES
    ]
    return (platform.machine(), *sorted(set.intersection(*cores) if cores else ()))


def features_differ(verified: tuple[str, ...] | None, here: tuple[str, ...]) -> str | None:
    """How a graph's processor differs from this one, as a clause for a log; ``None`` where it does not, or is unknown.

    :param verified: of the bundle; ``None`` when it does not say.
    """
    if verified is None or set(verified) == set(here):
        return None
    lost, gained = [name for name in verified if name not in here], [name for name in here if name not in verified]
    parts = [f"lacks {', '.join(lost)}" if lost else "", f"has {', '.join(gained)} besides" if gained else ""]
    return "this processor " + " and ".join(part for part in parts if part)
