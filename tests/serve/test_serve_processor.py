"""The features of the processor by which int8 results differ, and what is said where they differ."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from pathlib import Path

import pytest

from retrainer.serve.loading import Loading, load_checked
from retrainer.serve.predictor import load_info
from retrainer.serve.processor import FEATURES, cpu_features, features_differ

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu vme sse2 avx avx2 avx512f avx512bw avx512vl avx512_vnni avx_vnni amx_int8
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu vme sse2 avx avx2 avx512f avx512bw avx512vl avx512_vnni
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes asimddp sve i8mm bf16
CPU implementer\t: 0x41
"""


def test_what_every_core_has(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(X86)
    here = platform.machine()
    assert cpu_features(path) == (here, "avx2", "avx512_vnni", "avx512bw", "avx512f", "avx512vl")
    path.write_text(ARM)
    assert cpu_features(path) == (here, "asimddp", "i8mm")
    path.write_text("")
    assert cpu_features(path) == (here,)
    assert cpu_features(tmp_path / "absent") == (here,)


def test_of_this_machine() -> None:
    architecture, *features = cpu_features()
    assert architecture == platform.machine()
    assert set(features) <= FEATURES
    assert features == sorted(features)
    words = Path("/proc/cpuinfo").read_text().split()
    assert set(features) == FEATURES & set(words)


@pytest.mark.parametrize(
    ("verified", "here", "clause"),
    [
        (None, ("x86_64",), None),
        (("x86_64", "avx2"), ("x86_64", "avx2"), None),
        (("x86_64", "avx2", "avx_vnni"), ("x86_64", "avx2"), "this processor lacks avx_vnni"),
        (("x86_64", "avx2"), ("x86_64", "avx2", "avx_vnni"), "this processor has avx_vnni besides"),
        (
            ("x86_64", "avx2"),
            ("aarch64", "asimddp"),
            "this processor lacks x86_64, avx2 and has aarch64, asimddp besides",
        ),
    ],
)
def test_how_processors_differ(verified: tuple[str, ...] | None, here: tuple[str, ...], clause: str | None) -> None:
    assert features_differ(verified, here) == clause


def test_the_export_notes_what_int8_was_verified_under(bundle: Path) -> None:
    precisions = load_info(bundle).precisions
    assert precisions["int8"].cpu_features == cpu_features()
    assert precisions["fp32"].cpu_features is None


@pytest.mark.parametrize("differs", [True, False])
def test_a_refused_int8_says_that_the_processor_is_another(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, differs: bool
) -> None:
    """Made where there was a feature that no processor has, or here."""
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    golden = folder / "golden.jsonl"
    rows = [json.loads(line) for line in golden.read_text().splitlines()]
    for row in rows:
        row["logits"]["int8"] = [value + 0.5 for value in row["logits"]["int8"]]
    golden.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if differs:
        info = json.loads((folder / "bundle.json").read_text())
        info["precisions"]["int8"]["cpu_features"].append("avx1024_vnni")
        (folder / "bundle.json").write_text(json.dumps(info))
    with caplog.at_level(logging.WARNING):
        assert load_checked(folder).precision == "fp32"
    assert "int8 is not used" in caplog.text
    assert ("this processor lacks avx1024_vnni" in caplog.text) is differs


def test_another_processor_alone_refuses_nothing(bundle: Path, tmp_path: Path) -> None:
    """The golden rows decide."""
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    info = json.loads((folder / "bundle.json").read_text())
    info["precisions"]["int8"]["cpu_features"] = ["s390x"]
    (folder / "bundle.json").write_text(json.dumps(info))
    assert load_checked(folder).precision == "int8"


def test_a_temperature_divides_the_logits(bundle: Path, tmp_path: Path) -> None:
    """A bundle of an earlier version has none, and its scores stay what they were."""
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    before = load_checked(folder, Loading("fp32"))
    assert before.temperature == 1.0
    info = json.loads((folder / "bundle.json").read_text())
    info["precisions"]["fp32"]["temperature"] = 2.0
    (folder / "bundle.json").write_text(json.dumps(info))
    after = load_checked(folder, Loading("fp32"))
    assert after.temperature == 2.0
    texts = ["the trail is open", "closed"]
    assert (after.logits(texts) == before.logits(texts)).all()
    flatter, sharper = after.probabilities(texts), before.probabilities(texts)
    ratios = flatter[:, 0] / flatter[:, 1], (sharper[:, 0] / sharper[:, 1]) ** 0.5
    assert ratios[0] == pytest.approx(ratios[1])
    assert load_checked(folder, Loading("int8")).temperature == 1.0
