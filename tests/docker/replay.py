"""Do what a Dockerfile says, without a container engine: for checks where there is none.

    python -m tests.docker.replay docker/Dockerfile.serve FOLDER [--arg NAME=VALUE]... [--image NAME=DOCKERFILE]...

Each ``RUN`` and ``COPY`` is done in order, in a root of its own: layers of an overlay, as an engine has them, with
``chroot`` and the step's user. Images that stages start from are not fetched. Those of Python are stood in for by this
machine's Debian with nothing in /usr/local but the Python that runs this script; others by what another Dockerfile,
given with ``--image``, makes of that. So a wrong path, a file that ``.dockerignore`` leaves out, versions that
conflict, a user who may not write: all of it fails here as it would in a build.

What it cannot show is what the real images have that these have not, and the other way round: packages of the system
above all, which no Dockerfile here installs. It needs Linux, root, and a folder that is not on an overlay itself.
Not here: what is expected of the images (``test_images.py``).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.conftest import REPOSITORY

log = logging.getLogger(__name__)

PYTHON_IMAGE = re.compile(r"(docker\.io/library/)?python:\S+")
PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
# What an image's root has beside /usr and /etc.
FOLDERS = {"dev": 0o755, "home": 0o755, "opt": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755, "srv": 0o755}
FOLDERS |= {"sys": 0o555, "tmp": 0o1777, "var/cache": 0o755, "var/lib": 0o755, "var/log": 0o755, "var/mail": 0o755}
# How this machine reaches its package index, which a build has from its engine.
PASSED_ON = re.compile(r"PIP_\w+|\w+_proxy|\w+_PROXY|SSL_CERT_\w+|REQUESTS_CA_BUNDLE")


class NotReplayed(Exception):
    """A step failed, or is of a kind that no Dockerfile here has."""


@dataclass(frozen=True)
class Image:
    """What a stage has come to.

    :ivar layers: folders, the lowest first.
    """

    layers: tuple[Path, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    volumes: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()

    def mounted(self, at: Path, change: Path | None = None, binds: Sequence[tuple[Path, str, bool]] = ()) -> str:
        """Shell that puts the root together at a folder, in a mount namespace of its own.

        :param change: the layer that takes what is written; read-only without.
        :param binds: folders of this machine, where they are seen, and whether they may be written to.
        """
        options = f"lowerdir={':'.join(str(layer) for layer in reversed(self.layers))}"
        if change is not None:
            work = change.with_name(f"{change.name}.work")
            work.mkdir(exist_ok=True)
            options += f",upperdir={change},workdir={work}"
        # /usr is this machine's, but for /usr/local, which is the layers'.
        local = at.with_name("local")
        local.mkdir(exist_ok=True)
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"mount -t overlay overlay -o {options} {at}",
            f"mount --bind {at}/usr/local {local}",
            f"mount --bind /usr {at}/usr",
            f"mount -o remount,bind,ro {at}/usr",
            f"mount --bind {local} {at}/usr/local",
            f"mount --rbind /dev {at}/dev",
            f"mount -t proc proc {at}/proc",
        ]
        for source, target, writable in binds:
            lines.append(f"mount --bind {shlex.quote(str(source))} {at}{target}")
            if not writable:
                lines.append(f"mount -o remount,bind,ro {at}{target}")
        return "\n".join(lines)

    def started(self, at: Path, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
        """Shell that runs a command in the root at a folder, as the image's user, with the image's environment only."""
        said = {"HOME": self._home(), **self.environment, **(environment or {})}
        assigned = [f"{name}={value}" for name, value in said.items()]
        chroot = ["chroot", f"--userspec={self.user}", "--groups=", str(at), "env", "-i", f"--chdir={self.folder}"]
        return f"exec setpriv --no-new-privs {shlex.join([*chroot, *assigned, *arguments])}"

    def _home(self) -> str:
        """Of the user, as the engine looks it up."""
        files = [layer / "etc" / "passwd" for layer in self.layers]
        passwd = [file for file in (Path("/etc/passwd"), *files) if file.is_file()][-1]
        number_or_name = self.user.partition(":")[0]
        entries = [line.split(":") for line in passwd.read_text(encoding="utf-8").splitlines()]
        return next((entry[5] for entry in entries if number_or_name in {entry[0], entry[2]}), "/")


@dataclass(frozen=True)
class Instruction:
    """A line of a Dockerfile, its continuations joined."""

    word: str
    rest: str
    line: int


def instructions(dockerfile: Path) -> Iterator[Instruction]:
    """What a Dockerfile says, without its comments."""
    parts: list[str] = []
    begun = 0
    for number, line in enumerate(dockerfile.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or parts):
            continue
        begun = begun if parts else number
        parts.append(line.removesuffix("\\").strip())
        if not line.endswith("\\"):
            word, _, rest = " ".join(parts).partition(" ")
            yield Instruction(word.upper(), rest.strip(), begun)
            parts = []


def in_context(root: Path) -> Iterator[Path]:
    """Files that a build is given: below the root, but what ``.dockerignore`` leaves out. Relative paths."""
    rules = [line.strip() for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines()]
    patterns = [(not rule.startswith("!"), rule.lstrip("!").strip("/")) for rule in rules if rule and rule[0] != "#"]
    kept_folders = {pattern.split("/")[0] for left_out, pattern in patterns if not left_out}
    for top in sorted(kept_folders):
        below = [root / top] if (root / top).is_file() else sorted((root / top).rglob("*"))
        for file in below:
            path = file.relative_to(root)
            if file.is_file() and not _left_out(path, patterns):
                yield path


def _left_out(path: Path, patterns: Sequence[tuple[bool, str]]) -> bool:
    """The last pattern that speaks of a path, or of a folder above it, decides."""
    verdict = False
    for left_out, pattern in patterns:
        if any(_matches(place.as_posix(), pattern) for place in (path, *path.parents)):
            verdict = left_out
    return verdict


def _matches(place: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(place.rpartition("/")[2], pattern[3:])
    return place.count("/") == pattern.count("/") and fnmatch.fnmatchcase(place, pattern)


class Replay:
    """Dockerfiles of one repository, replayed below one folder.

    :param images: names of images, and the Dockerfile that stands in for each.
    """

    def __init__(self, root: Path, folder: Path, images: Mapping[str, Path] | None = None) -> None:
        self.root, self.folder = root, folder
        self._images = dict(images or {})
        self._made: dict[str, Image] = {}
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._at = folder / "mounted"
        self._at.mkdir(exist_ok=True)
        self._context = folder / "context"
        for path in in_context(root):
            target = self._context / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, target)

    def build(self, dockerfile: Path, arguments: Mapping[str, str] | None = None) -> Image:
        """The image of the last stage.

        :raises NotReplayed: a step failed.
        """
        given = dict(arguments or {})
        outside: dict[str, str] = {}
        known: dict[str, str] = {}
        stages: dict[str, Image] = {}
        image: Image | None = None
        for said in instructions(dockerfile):
            where = f"{dockerfile.name}:{said.line}"
            scope = outside if image is None else {**known, **image.environment}
            if said.word == "ARG":
                name, _, default = said.rest.partition("=")
                value = given.get(name, outside.get(name, _filled(_unquoted(default), scope)))
                (outside if image is None else known)[name] = value
            elif said.word == "FROM":
                source, *rest = _filled(said.rest, outside).split()
                image, known = stages.get(source) or self._image(source, where), {}
                stages[rest[1] if rest else source] = image
                current = rest[1] if rest else source
            elif image is None:
                raise NotReplayed(f"{where}: {said.word} before FROM")
            else:
                log.info("%s %s %s", where, said.word, said.rest[:90])
                image = stages[current] = self._step(image, said, {**scope}, known, stages, where)
        if image is None:
            raise NotReplayed(f"{dockerfile}: no FROM")
        return image

    def _step(
        self,
        image: Image,
        said: Instruction,
        scope: Mapping[str, str],
        known: Mapping[str, str],
        stages: Mapping[str, Image],
        where: str,
    ) -> Image:
        rest = said.rest
        match said.word:
            case "RUN":
                return self._run(image, rest, known, stages, where)
            case "COPY":
                return self._copy(image, shlex.split(_filled(rest, scope)), stages, where)
            case "ENV":
                new = dict(pair.split("=", 1) for pair in shlex.split(_filled(rest, scope)))
                return replace(image, environment={**image.environment, **new})
            case "USER":
                return replace(image, user=_filled(rest, scope))
            case "WORKDIR":
                made = self._layer(image, f"mkdir -p {self._at}{shlex.quote(rest)}", where)
                return replace(made, folder=rest)
            case "VOLUME":
                return replace(image, volumes=(*image.volumes, rest))
            case "ENTRYPOINT":
                return replace(image, entrypoint=_listed(rest), command=())
            case "CMD":
                return replace(image, command=_listed(rest))
            case "HEALTHCHECK":
                return replace(image, healthcheck=_listed(rest.partition(" CMD ")[2]))
            case "EXPOSE" | "STOPSIGNAL" | "LABEL":
                return image
        raise NotReplayed(f"{where}: {said.word} is not known here")

    def _run(self, image: Image, rest: str, known: Mapping[str, str], stages: Mapping[str, Image], where: str) -> Image:
        binds = []
        while mount := re.match(r"--mount=(\S+)\s+", rest):
            options = dict(pair.split("=", 1) for pair in mount[1].split(","))
            if options.get("type") != "bind" or "from" not in options:
                raise NotReplayed(f"{where}: only bind mounts of other stages are known here")
            binds.append((self._found(stages[options["from"]], options["source"], where), options["target"], False))
            rest = rest[mount.end() :]
        if "apt-get" in rest:
            raise NotReplayed(f"{where}: packages of the system are not installed here")
        passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
        step = image.started(self._at, ["sh", "-c", rest], environment={**passed, **known})
        targets = "".join(f"mkdir -p {self._at}{target}\n" for _, target, _ in binds)
        return self._layer(image, step, where, binds, before=targets)

    def _copy(self, image: Image, words: list[str], stages: Mapping[str, Image], where: str) -> Image:
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        *sources, target = (word for word in words if not word.startswith("--"))
        into = target.endswith("/") or len(sources) > 1
        place = os.path.normpath(f"{image.folder}/{target}" if not target.startswith("/") else target)
        lines = ["set -e"]
        for source in sources:
            if "from" in options:
                found = self._found(stages[options["from"]], source, where)
            else:
                found = self._context / source
                if not found.exists():
                    raise NotReplayed(f"{where}: {source} is not in the context (.dockerignore?)")
            to = f"{place}/{found.name}" if into and found.is_file() else place
            lines.append(f"mkdir -p {self._at}{shlex.quote(to if found.is_dir() else str(Path(to).parent))}")
            lines.append(f"cp -a {found}/. {self._at}{to}/" if found.is_dir() else f"cp -a {found} {self._at}{to}")
            owner = options.get("chown", "0:0" if "from" not in options else None)
            if owner:
                lines.append(f"chroot {self._at} chown -R {owner} {shlex.quote(to)}")
        return self._layer(image, "\n".join(lines), where)

    def _layer(
        self,
        image: Image,
        step: str,
        where: str,
        binds: Sequence[tuple[Path, str, bool]] = (),
        before: str = "",
    ) -> Image:
        """The image with one layer more, which holds what a step wrote."""
        self._count += 1
        change = self.folder / f"layer-{self._count}"
        change.mkdir()
        mounts, *bound = image.mounted(self._at, change, binds).split("\nmount --bind")
        script = "\n".join([mounts, before, *(f"mount --bind{one}" for one in bound), step])
        if subprocess.run(["unshare", "--mount", "sh", "-c", script], check=False).returncode:
            raise NotReplayed(f"{where}: the step failed")
        return replace(image, layers=(*image.layers, change))

    def _found(self, image: Image, path: str, where: str) -> Path:
        """A path of another stage, with what each of its layers has of it.

        :raises NotReplayed: there is none.
        """
        having = [layer / path.lstrip("/") for layer in image.layers if (layer / path.lstrip("/")).exists()]
        if not having:
            raise NotReplayed(f"{where}: no earlier stage made {path}")
        if len(having) == 1 or having[-1].is_file():
            return having[-1]
        merged = self.folder / f"merged-{self._count}"
        merged.mkdir()
        for part in having:
            subprocess.run(["cp", "-a", f"{part}/.", str(merged)], check=True)
        return merged

    def _image(self, name: str, where: str) -> Image:
        """What stands in for an image of a registry."""
        if name not in self._made:
            if name in self._images:
                self._made[name] = self.build(self._images[name])
            elif PYTHON_IMAGE.fullmatch(name):
                self._made[name] = self._python()
            else:
                raise NotReplayed(f"{where}: nothing stands in for the image {name}; give --image")
        return self._made[name]

    def _python(self) -> Image:
        """This machine's Debian, and in /usr/local nothing but its Python and pip."""
        if "python" not in self._made:
            base = self.folder / "base"
            for name, mode in FOLDERS.items():
                (base / name).mkdir(parents=True)
                (base / name).chmod(mode)
            for link in Path("/").iterdir():  # /bin and the like lead to /usr
                if link.is_symlink() and link.readlink().parts[0] in {"usr", "/"}:
                    (base / link.name).symlink_to(link.readlink())
            subprocess.run(["cp", "-a", "/etc", str(base)], check=True)
            (base / "usr" / "local").mkdir(parents=True)
            _copy_python(Path(sys.base_prefix), base / "usr" / "local")
            bare = Image((base,), environment={"PATH": PATH})
            self._made["python"] = self._layer(bare, f"chroot {self._at} ldconfig /usr/local/lib", "python")
        return self._made["python"]


def _copy_python(prefix: Path, to: Path) -> None:
    """An interpreter without what was installed into it, but for pip."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = prefix / "lib" / version
    skipped = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*")
    shutil.copytree(library, to / "lib" / version, symlinks=True, ignore=skipped)
    packages = to / "lib" / version / "site-packages"
    packages.mkdir()
    for shared in (prefix / "lib").glob("libpython*"):
        shutil.copy2(shared, to / "lib", follow_symlinks=False)
    (to / "bin").mkdir()
    shutil.copy2(prefix / "bin" / version, to / "bin" / version)
    for name in ("python3", "python"):
        (to / "bin" / name).symlink_to(version)
    # The wheel of pip that comes with Python.
    bundled = next((library / "ensurepip" / "_bundled").glob("pip-*.whl"))
    shutil.unpack_archive(bundled, packages, "zip")
    script = to / "bin" / "pip"
    script.write_text(
        "#!/usr/local/bin/python\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)


def _filled(text: str, values: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced, as Dockerfiles do; what is not known is empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ""), text)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _listed(rest: str) -> tuple[str, ...]:
    """The list form; the shell form is not used here."""
    return tuple(json.loads(rest))


def main() -> None:
    """Replay one Dockerfile and say where its layers are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("folder", type=Path, help="a new or empty folder, not on an overlay")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--image", action="append", default=[], metavar="NAME=DOCKERFILE")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    images = {name: Path(path) for name, path in (pair.split("=", 1) for pair in given.image)}
    replay = Replay(REPOSITORY, given.folder.resolve(), images)
    try:
        image = replay.build(given.dockerfile, dict(pair.split("=", 1) for pair in given.arg))
    except NotReplayed as error:
        sys.exit(str(error))
    log.info("entrypoint %s, user %s, layers %s", image.entrypoint, image.user, ", ".join(map(str, image.layers)))


if __name__ == "__main__":
    main()
