"""Near duplicates: planted copies are found, other facts and other labels are not, and nothing hangs on order."""

from __future__ import annotations

import csv
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.leakage import data_sets, measure
from benchmarks.planted import EXACT, NEAR, copy
from retrainer.artifacts.snapshot import QUARANTINE, SPLITS, SnapshotStatistics, split_file
from retrainer.chain import Ingested
from retrainer.chain.messages import Log, Message
from retrainer.errors import DataError, IntegrityError
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.ingest import ingest
from retrainer.work.near.features import fewest_words
from retrainer.work.near.index import near_rows, write_index
from retrainer.work.near.search import Texts
from retrainer.work.near.text import simplify
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import Text

# Of the index of four texts, see ``test_the_functions_have_not_changed``.
KNOWN = "c7a0d605b7e22e7716652316218d936baacbf1459b8f009c1f4a150930893185"
SENTENCE = "Heavy rain washed out the lower bridge, so the north loop stays shut until Friday"
OPEN = "The whole ridge is dry and every gate stands open for riders this morning"


class Lines(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def send(self, message: Message) -> None:
        if isinstance(message, Log):
            self.lines.append(message.text)


def near(first: Text, second: Text, similarity: float = 0.8) -> bool:
    label = np.zeros(1, dtype=np.int64)
    return bool(Texts([first], label, similarity).near([second], label).row[0] == 0)


def generated(count: int, seed: int, words: tuple[int, int] = (6, 45)) -> list[str]:
    """Different texts of invented words."""
    chance = random.Random(seed)
    known = ["".join(chance.choices("abcdeghiklmnoprstu", k=chance.randint(2, 9))) for _ in range(3000)]
    return [" ".join(chance.choices(known, k=chance.randint(*words))) for _ in range(count)]


def parquet(path: Path, texts: Sequence[Text], labels: Sequence[int]) -> Path:
    columns: dict[str, Any] = {"row_id": [f"{at:016x}" for at in range(len(texts))]}
    columns["text"] = pa.array([text if isinstance(text, str) else text[0] for text in texts], pa.string())
    if texts and not isinstance(texts[0], str):
        columns["text_pair"] = [text[1] for text in texts]
    pq.write_table(pa.table({**columns, "label": pa.array(labels, pa.int64())}), path)
    return path


def csv_file(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


def pipeline(train: Path, *, checks: dict[str, Any] | None = None, **dataset: Any) -> Pipeline:
    return parse_pipeline(
        {
            "name": "x",
            "dataset": {
                "train": str(train),
                "checks": {"min_rows": 1, "min_rows_per_label": 1, **(checks or {})},
                **{key: str(value) if isinstance(value, Path) else value for key, value in dataset.items()},
            },
            "model": {"base": "m"},
            "publish": {"store": "s"},
        }
    )


def made(spec: Pipeline, folder: Path) -> tuple[SnapshotStatistics, dict[str, list[str]], list[dict[str, Any]]]:
    """The statistics, the texts of each split, the quarantine."""
    folder.mkdir()
    statistics = ingest(spec, folder, Lines())
    texts: dict[str, list[str]] = {
        split: pq.read_table(split_file(folder, split)).column("text").to_pylist() for split in SPLITS
    }
    quarantine = pq.read_table(folder / QUARANTINE).to_pylist()
    assert statistics.source_rows == sum(map(len, texts.values())) + statistics.duplicates + len(quarantine)
    assert Counter(row["reason"] for row in quarantine) == statistics.quarantined
    return statistics, texts, quarantine


class TestWhatCountsAsNear:
    @pytest.mark.parametrize(
        "other",
        [
            SENTENCE.upper(),
            SENTENCE.replace("rain", "hail"),
            SENTENCE.replace("lower ", ""),
            SENTENCE.replace("stays", "really stays"),
            SENTENCE.replace(",", " –").replace(" ", "\u00a0\n") + "…",
            SENTENCE.replace("so", "so\u200b").replace("a", "á"),
            "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in SENTENCE),
        ],
    )
    def test_copies(self, other: str):
        assert near(SENTENCE, other)
        assert near(other, SENTENCE)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("don't ride here today please", "don’t ride here today please"),
            ("café — naïve", "cafe - naive"),
            ("we are open", "We're open".replace("'re", " are") + "!"),
            ("雨で道が閉鎖されています今日", "雨で道が閉鎖されています明日"),
            ("٣ trails are open to all", "3 trails are open to all"),
        ],
    )
    def test_scripts_and_signs(self, first: str, second: str):
        assert near(first, second)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (SENTENCE, OPEN),
            ("trail 3 is open today", "trail 4 is open today"),  # another fact
            ("open until nine", "open until ten"),  # one word of so few is much
            ("text number 12", "text number 13"),
            ("?!", "..."),
            ("great 🙂", "great 🙁"),
            ("", "a"),
            ("all trails open at the park", "all trails shut at the lake"),  # two words
        ],
    )
    def test_no_copies(self, first: str, second: str):
        assert not near(first, second)

    def test_a_moved_word(self):
        assert near("today all lower trails stay open", "all lower trails stay open today")

    def test_the_share_that_one_word_may_be_follows_from_the_similarity(self):
        assert [fewest_words(value) for value in (0.5, 0.8, 0.9, 1.0)] == [5, 5, 10, 33]
        short, long = "the upper loop is shut", "we had to shut the upper loop for today because trees fell"
        assert near(short, short.replace("upper", "lower"))
        assert not near(short, short.replace("upper", "lower"), 0.9)
        assert near(long, long.replace("upper", "lower"), 0.9)
        assert not near(long, long.replace("upper", "lower"), 1.0)
        assert near(long, long.upper() + "!!", 1.0)

    def test_of_a_pair_both_texts_must_be_near(self):
        passage = " ".join(generated(1, 3, (60, 60)))
        assert near((passage, "the bridge is old"), (passage.upper(), "The bridge is old."))
        assert near((passage, "the bridge over here is old"), (passage, "the bridge over here is new"))
        assert near((passage, "the bridge is old"), (passage.replace(" ", "  ", 3) + " indeed", "the bridge is old"))
        assert not near((passage, "the bridge is old"), (passage, "who built this bridge"))
        assert not near((passage, "old bridge"), (passage, "new bridge")), "so short a text must be the same"
        assert not near(("a b c d e", "f g h i j"), ("a b c d", "e f g h i j k l"))

    def test_the_nearest_row_is_named(self):
        rows = [OPEN, SENTENCE.replace("Heavy rain", "Light snow") + " at noon", SENTENCE + " at noon"]
        label = np.zeros(3, dtype=np.int64)
        found = Texts(rows, label, 0.7).near([SENTENCE], label[:1])
        assert found.row.tolist() == [2]
        assert 0.8 < found.similarity[0] < 1.0


words_of_text = st.lists(st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=9), max_size=14)
texts_drawn = st.builds(" ".join, words_of_text)


@given(first=texts_drawn, second=texts_drawn, similarity=st.sampled_from([0.5, 0.8, 0.95, 1.0]))
@settings(deadline=None, max_examples=60)
def test_near_is_symmetric(first: str, second: str, similarity: float):
    assert near(first, second, similarity) == near(second, first, similarity)


@given(text=texts_drawn, similarity=st.floats(0.5, 1.0))
@settings(deadline=None, max_examples=60)
def test_the_same_text_is_always_near_whatever_it_is(text: str, similarity: float):
    assert near(text, text, similarity)
    assert near(text, f"  {text}\n", similarity)
    assert near((text, "b"), (text, "b"), similarity)


@given(words=st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=5, max_size=32), data=st.data())
@settings(deadline=None, max_examples=60)
def test_one_word_of_five_to_thirty_two_always_counts(words: list[str], data: st.DataObject):
    at = data.draw(st.integers(0, len(words) - 1))
    other = [*words[:at], data.draw(st.text("xyz", min_size=1, max_size=30)), *words[at + 1 :]]
    assert near(" ".join(words), " ".join(other))
    assert near(" ".join(words), " ".join([*words[:at], *words[at + 1 :]]))


@given(text=texts_drawn)
@settings(deadline=None, max_examples=40)
def test_another_label_never_is_near(text: str):
    assert Texts([text], np.array([0]), 0.5).near([text], np.array([1])).row.tolist() == [-1]


@given(text=texts_drawn)
@settings(deadline=None, max_examples=60)
def test_simplified_stays_as_it_is(text: str):
    once = simplify(text)
    assert simplify(once) == once
    assert bool(once) == bool(text.split())


@given(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=8)
def test_row_order_does_not_matter(seed: int, order: random.Random, tmp_path_factory: pytest.TempPathFactory):
    chance = random.Random(seed)
    held_out = generated(40, seed, (5, 12))
    rows = [copy(text, chance.choice(list(NEAR)), chance, ["other", "words"]) for text in held_out[:15]]
    rows += generated(20, seed + 1, (5, 12))
    mixed = list(range(len(held_out)))
    order.shuffle(mixed)
    labels = np.arange(len(held_out)) % 2
    asked = np.array([*labels[:15], *np.zeros(20, dtype=np.int64)])
    plain = Texts(held_out, labels, 0.8).near(rows, asked)
    shuffled = Texts([held_out[at] for at in mixed], labels[mixed], 0.8).near(rows[::-1], asked[::-1])
    assert (plain.row >= 0).tolist() == (shuffled.row[::-1] >= 0).tolist()
    folder = tmp_path_factory.mktemp("order")
    for name, at in (("one", list(range(len(held_out)))), ("two", mixed)):
        write_index(
            parquet(folder / f"{name}.parquet", [held_out[i] for i in at], labels[at].tolist()),
            ["x", "y"],
            folder / name,
        )
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()


class TestIngest:
    def test_near_copies_leave_the_split_that_is_judged_by_the_other(self, tmp_path: Path):
        texts = generated(60, 1)
        rows = [(text, "xy"[at % 2]) for at, text in enumerate(texts)]
        changed = [(text + " indeed", label) for text, label in rows]
        train = csv_file(tmp_path / "train.csv", [*rows[:40], changed[41], changed[50], (changed[42][0], "y")])
        validation = csv_file(tmp_path / "validation.csv", [*rows[40:50], changed[51]])
        test = csv_file(tmp_path / "test.csv", rows[50:])
        spec = pipeline(train, validation=validation, test=test)
        statistics, kept, quarantine = made(spec, tmp_path / "out")
        assert statistics.near_leakage == {"validation_in_test": 1, "train_in_test": 1, "train_in_validation": 1}
        assert statistics.leakage == {"validation_in_test": 0, "train_in_test": 0, "train_in_validation": 0}
        assert [(row["source"], row["row"], row["reason"]) for row in quarantine] == [
            ("train/train.csv", 41, "nearly_in_validation"),
            ("train/train.csv", 42, "nearly_in_test"),
            ("validation/validation.csv", 11, "nearly_in_test"),
        ]
        assert kept["test"] == texts[50:]
        assert changed[42][0] in kept["train"], "another label is no leak"
        assert Ingested.of(statistics).near_leakage == statistics.near_leakage

    def test_off(self, tmp_path: Path):
        texts = generated(40, 2)
        train = csv_file(tmp_path / "train.csv", [(f"{text} indeed", "xy"[at % 2]) for at, text in enumerate(texts)])
        test = csv_file(tmp_path / "test.csv", [(text, "xy"[at % 2]) for at, text in enumerate(texts)])
        off = pipeline(train, test=test, checks={"near_duplicate_similarity": None}, split={"validation": 0.0})
        statistics, kept, _ = made(off, tmp_path / "out")
        assert statistics.near_leakage == {}
        assert len(kept["train"]) == 40

    def test_fail_names_the_first_pairs(self, tmp_path: Path):
        texts = generated(40, 4)
        rows = [(text, "xy"[at % 2]) for at, text in enumerate(texts)]
        short = ("closed because of fallen trees", "x")
        train = csv_file(tmp_path / "train.csv", [*rows, short])
        test = csv_file(tmp_path / "test.csv", [(texts[5] + " indeed", "y"), ("closed because of many trees", "x")])
        spec = pipeline(train, test=test, checks={"on_leakage": "fail"}, split={"validation": 0.0})
        with pytest.raises(DataError, match="2 train rows are nearly a test row with the same label") as caught:
            made(spec, tmp_path / "out")
        first, second = caught.value.message.split(": ", 1)[1].split("; ")
        assert re.fullmatch(rf"{train}, row 6 and {test}, row 1 \(.*\d\d% alike\)", first)
        assert second == f"{train}, row 41 and {test}, row 2 (the same except for one word, 47% alike)"
        assert "near_duplicate_similarity" in str(caught.value.hint)

    def test_where_nearly_all_rows_go_the_error_says_why(self, tmp_path: Path):
        lines = [f"unit {at} of the northern plant reports no fault and all is well at this hour" for at in range(60)]
        train = csv_file(tmp_path / "a.csv", [(line, "xy"[at % 2]) for at, line in enumerate(lines)])
        with pytest.raises(DataError, match=r"only .* training rows") as caught:
            made(pipeline(train, checks={"min_rows": 30}), tmp_path / "out")
        assert "near_duplicate_similarity: null" in str(caught.value.hint)

    def test_a_carved_test_set_stays_as_data_grows(self, tmp_path: Path):
        texts = generated(200, 5)
        chance = random.Random(0)
        copies = [str(copy(text, chance.choice(list(NEAR)), chance, ["indeed"])) for text in texts]
        rows = [(text, "xy"[at % 2]) for at, text in enumerate(texts)]
        more = [(text, "xy"[at % 2]) for at, text in enumerate(copies)]
        options = {"split": {"validation": 0.1, "test": 0.3, "stratify": False}}
        _, before, _ = made(pipeline(csv_file(tmp_path / "a.csv", rows), **options), tmp_path / "one")
        grown = pipeline(csv_file(tmp_path / "b.csv", [*rows, *more]), **options)
        statistics, after, quarantine = made(grown, tmp_path / "two")
        assert set(before["test"]) <= set(after["test"])
        assert statistics.near_leakage["train_in_test"] > 30
        assert {row["reason"] for row in quarantine} == {"nearly_in_test", "nearly_in_validation"}
        original = {simplify(text): at for at, text in enumerate(texts)} | {
            simplify(t): i for i, t in enumerate(copies)
        }
        sides = {split: {original[simplify(text)] for text in after[split]} for split in after}
        assert not sides["train"] & (sides["test"] | sides["validation"])
        assert not sides["validation"] & sides["test"]

    def test_it_is_said(self, tmp_path: Path):
        texts = generated(40, 6)
        train = csv_file(tmp_path / "train.csv", [(text, "xy"[at % 2]) for at, text in enumerate(texts)])
        test = csv_file(tmp_path / "test.csv", [(texts[3] + " indeed", "y"), ("something else", "x")])
        reporter = Lines()
        (tmp_path / "out").mkdir()
        ingest(pipeline(train, test=test, split={"validation": 0.0}), tmp_path / "out", reporter)
        assert "1 rows that are nearly a test row: in quarantine" in reporter.lines

    def test_statistics_of_before_can_be_read(self, tmp_path: Path):
        train = csv_file(tmp_path / "a.csv", [(text, "xy"[at % 2]) for at, text in enumerate(generated(50, 7))])
        statistics, _, _ = made(pipeline(train), tmp_path / "out")
        old = statistics.model_dump(mode="json")
        del old["near_leakage"]
        (tmp_path / "out" / "statistics.json").write_text(SnapshotStatistics.model_validate(old).to_pretty_json())
        assert SnapshotStatistics.load(tmp_path / "out").near_leakage == {}


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return generated(700, 11, (5, 50))


@pytest.fixture(scope="module")
def index(rows: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    source = parquet(folder / "train.parquet", rows, [at % 3 for at in range(len(rows))])
    write_index(source, ["one", "two", "three"], folder / "near.bin")
    return folder / "near.bin"


class TestIndex:
    def names(self, rows: Sequence[object]) -> list[str]:
        return [("one", "two", "three")[at % 3] for at in range(len(rows))]

    @pytest.mark.parametrize("kind", [*EXACT, *NEAR])
    def test_planted_copies_are_found(self, index: Path, rows: list[str], kind: str):
        chance = random.Random(1)
        planted = [copy(text, kind, chance, ["otherwise", "indeed", "elsewhere"]) for text in rows]
        found = near_rows(index, planted, self.names(rows), 0.8)
        assert found.mean() >= (0.95 if kind.startswith("word") else 1.0)

    def test_other_texts_and_other_labels_are_not(self, index: Path, rows: list[str]):
        others = generated(2000, 12, (5, 50))
        assert near_rows(index, others, self.names(others), 0.8).sum() <= 2
        swapped = [*self.names(rows)[1:], "never seen"]
        assert not near_rows(index, rows, swapped, 0.8).any()

    def test_off_and_nothing_asked(self, index: Path, rows: list[str]):
        assert near_rows(index, rows, self.names(rows), None).tolist() == [False] * len(rows)
        assert near_rows(index, [], [], 0.8).shape == (0,)

    def test_templates_are_no_copies_of_each_other(self, tmp_path: Path):
        chance = random.Random(0)
        places = generated(40, 13, (2, 2))

        def line() -> str:
            first, second = chance.sample(places, 2)
            return (
                f"sensor {chance.randrange(9999)} in the {first} hall reports a temperature of {chance.randrange(400)} "
                f"degrees and the {second} door is locked as it should be at this hour"
            )

        lines = [line() for _ in range(1500)]
        write_index(parquet(tmp_path / "t.parquet", lines[:1200], [0] * 1200), ["ok"], tmp_path / "near.bin")
        label = np.zeros(1200, dtype=np.int64)
        truly = Texts(lines[:1200], label, 0.8).near(lines[1200:], label[:300]).row >= 0
        named = near_rows(tmp_path / "near.bin", lines[1200:], ["ok"] * 300, 0.8)
        assert (named & ~truly).sum() <= 45
        copies = [str(copy(text, "typographic", chance, [])) for text in lines[:100]]
        assert near_rows(tmp_path / "near.bin", copies, ["ok"] * 100, 0.8).all()

    def test_pairs(self, tmp_path: Path):
        chance = random.Random(2)
        rows = list(zip(generated(120, 14, (20, 40)), generated(120, 15, (6, 9)), strict=True))
        index = tmp_path / "near.bin"
        write_index(parquet(tmp_path / "t.parquet", rows, [0] * 120), ["x"], index)
        planted = [copy(row, list(NEAR)[at % len(NEAR)], chance, ["indeed"]) for at, row in enumerate(rows)]
        assert near_rows(index, planted, ["x"] * 120, 0.8).mean() >= 0.95
        other_question = [(first, rows[at - 1][1]) for at, (first, _) in enumerate(rows)]
        assert not near_rows(index, other_question, ["x"] * 120, 0.8).any()
        with pytest.raises(IntegrityError, match="pairs"):
            near_rows(index, ["one"], ["x"], 0.8)

    def test_no_text_is_in_it_and_it_is_small(self, index: Path, rows: list[str]):
        data = index.read_bytes()
        assert len(data) / len(rows) < 120
        words = {word.encode() for text in rows for word in text.split() if len(word) > 4}
        assert not [word for word in words if word in data]

    def test_no_rows(self, tmp_path: Path):
        write_index(parquet(tmp_path / "t.parquet", [], []), ["x"], tmp_path / "near.bin")
        assert near_rows(tmp_path / "near.bin", ["a text of some words"], ["x"], 0.8).tolist() == [False]

    def test_damage_is_noticed(self, index: Path, tmp_path: Path):
        data = index.read_bytes()
        bad = tmp_path / "near.bin"
        for at in [*range(0, 90), *range(90, len(data), 997), len(data) - 1]:
            bad.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
            with pytest.raises(IntegrityError):
                near_rows(bad, ["a text"], ["one"], 0.8)
        for cut in (0, 5, 40, len(data) // 2, len(data) - 1):
            bad.write_bytes(data[:cut])
            with pytest.raises(IntegrityError):
                near_rows(bad, ["a text"], ["one"], 0.8)
        bad.write_bytes(data + b"\0")
        with pytest.raises(IntegrityError):
            near_rows(bad, ["a text"], ["one"], 0.8)
        with pytest.raises(FileNotFoundError):
            near_rows(tmp_path / "none", ["a text"], ["one"], 0.8)

    def test_every_process_writes_the_same_bytes(self, index: Path, tmp_path: Path):
        script = (
            "import sys; from pathlib import Path; from retrainer.work.near.index import write_index;"
            "write_index(Path(sys.argv[1]), ['one', 'two', 'three'], Path(sys.argv[2]))"
        )
        target = tmp_path / "near.bin"
        subprocess.run(
            [sys.executable, "-c", script, index.parent / "train.parquet", target],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "7"},
        )
        assert target.read_bytes() == index.read_bytes()

    def test_the_functions_have_not_changed(self, tmp_path: Path):
        """Indexes lie in bundles that are served for years: other bytes here need another format version."""
        rows = [SENTENCE, OPEN, "Café – déjà vu №5, ＦＵＬＬ 漢字 🤘", "a b c d e 12"]
        write_index(parquet(tmp_path / "t.parquet", rows, [0, 1, 0, 1]), ["shut", "open"], tmp_path / "near.bin")
        assert sha256((tmp_path / "near.bin").read_bytes()).hexdigest() == KNOWN


@pytest.mark.data
@pytest.mark.parametrize("name", ["trail status", "AG News", "IMDB", "MRPC", "RTE"])
def test_planted_copies_of_real_rows(public_data: Path, name: str):
    data = next(data for data in data_sets() if data.name == name)
    result = measure(data, 1500 if name != "IMDB" else 400, share=0.074 if name == "AG News" else 0.3)
    found = {finding.kind: (finding.planted, finding.by_ingest, finding.by_index) for finding in result.findings}
    for kind in EXACT:
        assert found[kind][0] == found[kind][1] > 0
    near_copies = [found[kind] for kind in NEAR]
    planted = sum(count for count, _, _ in near_copies)
    assert sum(ingested for _, ingested, _ in near_copies) >= 0.95 * planted
    assert sum(named for _, _, named in near_copies) >= 0.95 * planted
    assert result.natural <= 0.01 * result.train_rows
    assert result.false <= 0.01 * result.test_rows


def test_planted_copies_of_example_rows():
    """Without the public data: the example in the repository, lines of some ten words."""
    result = measure(data_sets()[0], share=0.5)
    assert result.name == "trail status"
    assert all(finding.by_ingest == finding.planted for finding in result.findings if finding.kind in EXACT)
    assert result.near_recall >= 0.95
    assert result.natural == 0, "a line of the example is no copy of another"


def test_an_index_can_be_about_the_rows_of_another_too(tmp_path: Path):
    shared, own, other = (generated(40, seed) for seed in (1, 2, 3))
    names = ("a", "b")
    first = parquet(tmp_path / "first.parquet", shared + other, [0] * 80)
    second = parquet(tmp_path / "second.parquet", own + shared, [0] * 80)
    both = parquet(tmp_path / "both.parquet", own + shared + other, [0] * 120)
    for name, split in (("first", first), ("second", second), ("both", both)):
        write_index(split, names, tmp_path / name)
    write_index(second, names, tmp_path / "merged", also=tmp_path / "first")
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "both").read_bytes()
    # Once more adds nothing: it does not grow with each model that is blended with the one before.
    write_index(second, names, tmp_path / "again", also=tmp_path / "merged")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "both").read_bytes()
    found = near_rows(tmp_path / "merged", other, ["a"] * 40, 0.8)
    assert found.all()
    pairs = parquet(tmp_path / "pairs.parquet", list(zip(own, other, strict=True)), [0] * 40)
    with pytest.raises(IntegrityError, match="texts of another kind"):
        write_index(pairs, names, tmp_path / "of_pairs", also=tmp_path / "first")
