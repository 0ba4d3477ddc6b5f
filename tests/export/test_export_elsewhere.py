"""A bundle loads outside this project: the example of docs/bundle.md, and the configs as transformers reads them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from retrainer.serve import Classifier, Generator
from retrainer.work.export.bundle import export_bundle
from tests.export import tiny
from tests.export.bundles import Exported
from tests.export.writer_bundles import BOTH, ROWS, writer

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "bundle.md"
# Runs the example as it stands, then tells what it loaded.
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def written_down(factory: pytest.TempPathFactory, position: int, most: int) -> Path:
    """One of the document's two examples, of at most so many lines, as a file."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    statements = [line for line in blocks[position].splitlines() if line and not line.startswith("import ")]
    assert len(statements) <= most
    path = factory.mktemp("elsewhere") / "ask.py"
    path.write_text(blocks[position])
    return path


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_down(tmp_path_factory, 0, 10)


def ask(example: Path, folder: Path, texts: list[str]) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-c", RUN, str(example), str(folder), *texts], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stderr.split())
    assert not loaded & {"retrainer", "torch", "transformers"}
    return answer.stdout.splitlines()


@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta-v2"])
def test_the_ten_lines_of_the_document_answer_as_the_client(example: Path, architecture: str, tmp_path: Path) -> None:
    export_bundle(
        tiny.save_checkpoint(tmp_path / "checkpoint", architecture),
        tiny.rows(40),
        tmp_path / "bundle",
        task="text-classification",
        labels=tiny.LABELS,
        max_length=tiny.MAX_LENGTH,
    )
    texts = [str(row.text) for row in tiny.rows(40)]
    expected = Classifier.from_folder(tmp_path / "bundle", precision="fp32")(texts)
    assert len({item["label"] for item in expected}) > 1
    assert ask(example, tmp_path / "bundle", texts) == [
        f"{item['label']}\t{text}" for item, text in zip(expected, texts, strict=True)
    ]


@pytest.mark.parametrize("architecture", BOTH)
def test_the_lines_about_text_write_what_the_client_writes(
    tmp_path_factory: pytest.TempPathFactory, architecture: str
) -> None:
    example = written_down(tmp_path_factory, 1, 25)
    bundle = writer(tmp_path_factory, architecture).bundle
    text = str(ROWS[4].text)
    expected = Generator.from_folder(bundle, precision="fp32")(text)
    assert "\n".join(ask(example, bundle, [text])) == "\n".join(expected.splitlines())


def test_transformers_reads_the_configs(exported: Exported) -> None:
    config = AutoConfig.from_pretrained(exported.bundle)
    assert [config.id2label[index] for index in range(config.num_labels)] == list(tiny.LABELS)
    assert config.label2id == {label: index for index, label in enumerate(tiny.LABELS)}
    tokenizer = AutoTokenizer.from_pretrained(exported.bundle)
    text = " ".join(tiny.WORDS * 3)
    assert len(tokenizer(text, truncation=True)["input_ids"]) == tiny.MAX_LENGTH
