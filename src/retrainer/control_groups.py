"""The control groups of this process, by the folders in which the kernel says what they grant and what they use.

Below everything that asks. Not here: cores (``serve/cores.py``), memory (``run/free_memory.py``).
"""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
ROOT = Path("/sys/fs/cgroup")


def group_folders(controller: str, proc: Path = PROC, root: Path = ROOT) -> list[Path]:
    """The folders of this process's groups that a controller governs, and of those above them.

    Of version 2, and of version 1, where each controller is mounted by itself or together with others (Linux,
    *Control Groups version 1*). In a container the group's own folder may be what is mounted: then only that is there.

    :param controller: ``cpu`` or ``memory``.
    """
    folders: list[Path] = []
    for line in read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        for mount in dict.fromkeys((root / controllers, root / controller)) if controllers else (root,):
            below = mount / path.strip("/")
            folders += [folder for folder in (below, *below.parents) if folder.is_relative_to(mount)]
    return folders


def read(file: Path) -> str:
    """What a file of the kernel says; nothing where there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""
