"""Finding files, their columns and their identity."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.errors import DataError, StorageError
from retrainer.formats import format_of
from retrainer.sources import SourceFile, expand, fetched, fingerprint, read_columns
from retrainer.spec.dataset import HubDataset, HubSource
from retrainer.spec.delimited import Csv
from tests.unprivileged import unprivileged

CSV = "text,label\na,x\n"


def write(path: Path, content: str | bytes = CSV) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def names(*paths: object) -> list[str]:
    return [file.name for file in expand([str(path) for path in paths])]


def test_one_file(tmp_path: Path):
    path = write(tmp_path / "a.csv")
    assert expand([str(path)]) == (SourceFile(str(path), "a.csv", "csv", False, len(CSV)),)


def test_folders_and_globs_in_a_fixed_order(tmp_path: Path):
    for name in ("b.csv", "a.tsv", "deep/c.jsonl", "d.parquet", "z.csv.gz", ".hidden.csv", "_SUCCESS", "README.md"):
        write(tmp_path / name)
    everything = ["a.tsv", "b.csv", "d.parquet", "deep/c.jsonl", "z.csv.gz"]
    assert names(tmp_path) == everything
    assert names(f"{tmp_path}/*.csv") == ["b.csv"]
    assert names(f"{tmp_path}/**/*.jsonl") == ["deep/c.jsonl"]
    assert names(f"{tmp_path}/[ab].*") == ["a.tsv", "b.csv"]
    assert names(tmp_path / "d.parquet", tmp_path)[:2] == ["d.parquet", "a.tsv"]
    assert len(names(tmp_path, f"{tmp_path}/*.csv", tmp_path / "b.csv")) == len(everything)
    formats = {file.name: (file.format, file.compressed) for file in expand([str(tmp_path)])}
    assert formats["z.csv.gz"] == ("csv", True)
    assert formats["d.parquet"] == ("parquet", False)


def test_what_is_not_there_names_what_is(tmp_path: Path):
    write(tmp_path / "data" / "train.csv")
    for path, hint in (
        ("data/trian.csv", r"did you mean 'train.csv'\?"),
        ("data/zzz.jsonl", "holds train.csv"),
        ("dta/train.csv", r"holds no 'dta'; did you mean 'data'\?"),
        ("data/*.parquet", "holds train.csv"),
        ("nowhere/at/all/*.csv", "holds no 'nowhere'"),
    ):
        with pytest.raises(DataError, match=hint) as caught:
            names(tmp_path / path)
        assert caught.value.where == str(tmp_path / path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no data file .* \(it is empty\)"):
        names(tmp_path / "empty")
    write(tmp_path / "docs" / "README.md")
    with pytest.raises(DataError, match=r"holds no data file .* \(it holds README.md\)"):
        names(tmp_path / "docs")


def test_unknown_formats(tmp_path: Path):
    with pytest.raises(DataError, match=r"'.xlsx' is not a known format; known are csv, tsv, jsonl"):
        names(write(tmp_path / "a.xlsx"))
    with pytest.raises(DataError, match=r"write one JSON object a line and call it .jsonl"):
        names(write(tmp_path / "a.json"))
    with pytest.raises(DataError, match="not a known format"):
        names(write(tmp_path / "data"))


def test_no_permission(tmp_path: Path):
    folder = tmp_path / "closed"
    path = write(folder / "a.csv")
    path.chmod(0)
    for parent in (tmp_path, *tmp_path.parents[:4]):
        if parent != Path("/tmp") and parent.name.startswith(("pytest", "popen", "test")):
            parent.chmod(0o755)
    with unprivileged():
        file = expand([str(path)])[0]
        with pytest.raises(DataError, match="no permission to read it"):
            file.fingerprint()
        with pytest.raises(DataError, match="no permission to read it"):
            read_columns(file)
    folder.chmod(0)
    with unprivileged():
        for place in (path, folder):
            with pytest.raises(DataError, match="no permission to read"):
                names(place)
    folder.chmod(0o755)


def test_the_fingerprint_is_of_content_not_of_place(tmp_path: Path):
    write(tmp_path / "one" / "a.csv")
    write(tmp_path / "one" / "b.csv", "text,label\nb,y\n")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = fingerprint((str(tmp_path / "one"),))
    assert fingerprint((str(tmp_path / "two"),)) == first
    assert fingerprint((f"{tmp_path}/two/*.csv",)) == first
    (tmp_path / "two" / "a.csv").rename(tmp_path / "two" / "a2.csv")
    assert fingerprint((str(tmp_path / "two"),)) == first
    (tmp_path / "two" / "a2.csv").rename(tmp_path / "two" / "c.csv")
    assert fingerprint((str(tmp_path / "two"),)) != first, "the order of rows changed"
    write(tmp_path / "one" / "b.csv", "text,label\nb,z\n")
    assert fingerprint((str(tmp_path / "one"),)) != first


def test_hub_fingerprints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commit = "0123456789" * 4
    pinned = HubSource(hub=HubDataset(path="glue", name="mrpc", revision=commit, split="train[:10]"))
    assert fingerprint(pinned) == f"hub:glue/mrpc@{commit}:train[:10]"

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    floating = HubSource(hub=HubDataset(path="org/glue"))
    with pytest.raises(DataError, match="pin the revision to a full commit"):
        fingerprint(floating)
    write(tmp_path / "hub" / "datasets--org--glue" / "refs" / "main", commit)
    assert fingerprint(floating) == f"hub:org/glue@{commit}:train"


def test_a_hub_out_of_reach_is_one_error_or_what_is_cached(tmp_path: Path):
    """Its client's errors are neither OSError nor ValueError. What it is to reach is read when it is imported."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    write(tmp_path / "hub" / "models--org--cached" / "refs" / "main", commit)
    script = """
from retrainer.errors import ModelError
from retrainer.sources.base_models import fingerprint
from retrainer.spec.model import Model
print(fingerprint(Model(base="org/cached")))
for name in ("org/other", "no such/name/at all"):
    try:
        fingerprint(Model(base=name))
    except ModelError as error:
        print(error)
"""
    out_of_reach = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path / "hub")}
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | out_of_reach
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    cached, other, wrong = done.stdout.splitlines()
    assert cached == f"org/cached@{commit}"
    assert "org/other: neither a folder nor a model that can be had from the hub" in other
    assert "no such/name/at all: neither a folder nor a model" in wrong


def test_hub_folders_count_by_content_and_names(tmp_path: Path):
    write(tmp_path / "set" / "train.csv")
    source = HubSource(hub=HubDataset(path=str(tmp_path / "set")))
    first = fingerprint(source)
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    copy = HubSource(hub=HubDataset(path=str(tmp_path / "copy")))
    assert fingerprint(copy) == first
    (tmp_path / "copy" / "train.csv").rename(tmp_path / "copy" / "test.csv")
    assert fingerprint(copy) != first
    with pytest.raises(DataError, match=r"no such folder \(did you mean 'copy'\?\)"):
        fingerprint(HubSource(hub=HubDataset(path=str(tmp_path / "coppy"))))


def test_columns_of_every_format(tmp_path: Path):
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "d.parquet")
    write(tmp_path / "a.csv", "\ufefftext, label\n")
    write(tmp_path / "b.tsv", "text\tlabel\nx\ty\n")
    write(tmp_path / "c.jsonl", '\n{"text": "a", "label": 1}\n')
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    for file in expand([str(tmp_path)]):
        assert read_columns(file) == ("text", "label"), file.name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.jsonl", b"\n\n", "the file is empty"),
        ("a.parquet", b"", "the file is empty"),
        ("a.parquet", b"text,label", "not parquet"),
        ("a.csv", b"text,caf\xe9\n", "not UTF-8: byte 0xe9 at offset 8"),
        ("a.csv", "text,label\n".encode("utf-16-le"), r"dataset.csv: \{encoding: utf-16-le\}, or convert it"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16-be"), "iconv -f UTF-16-BE"),
        ("a.csv", gzip.compress(b"text,label\n", mtime=0), "not text but gzip"),
        (
            "a.csv.gz",
            gzip.compress(gzip.compress(b"text,label\n", mtime=0), mtime=0),
            "once unpacked, the file is not text but gzip",
        ),
        ("a.tsv", b"PK\x03\x04rest", "zip archive"),
        ("a.jsonl", b"PAR1rest", "end in .parquet"),
        ("a.csv", b"   \n\n", "line 1: the first row names no column"),
        ("a.jsonl", b"[{}]", "a JSON array; write one object a line"),
        ("a.jsonl", b"{'a': 1}", "line 1: not JSON"),
        ("a.csv.gz", b"text,label\n", "not a complete gzip file"),
        ("a.csv.gz", gzip.compress(b"text,label\n" * 1000, mtime=0)[:-20], "not a complete gzip file"),
    ],
)
def test_headers_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str):
    file = expand([str(write(tmp_path / name, content))])[0]
    if content[:2] == b"\x1f\x8b":
        return  # a header is read before the damage; the rows are not, see test_ingest_formats
    with pytest.raises(DataError, match=message) as caught:
        read_columns(file)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(tmp_path / name))


def put(bucket: str, key: str, content: bytes = CSV.encode()) -> None:
    import boto3

    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=content)


def test_s3(s3_bucket: str, tmp_path: Path):
    for key in ("news/a.csv", "news/b.jsonl", "news/deep/c.csv", "news/_SUCCESS", "newspaper/d.csv", "top.csv"):
        put(s3_bucket, key)
    root = f"s3://{s3_bucket}"
    assert names(f"{root}/news") == ["a.csv", "b.jsonl", "deep/c.csv"]
    assert names(f"{root}/news/") == ["a.csv", "b.jsonl", "deep/c.csv"]
    assert names(f"{root}/news/a.csv") == ["a.csv"]
    assert names(f"{root}/news/*.csv") == ["a.csv"]
    assert names(f"{root}/news/**/*.csv") == ["a.csv", "deep/c.csv"]
    assert names(f"{root}/n*/?.csv") == ["news/a.csv", "newspaper/d.csv"]
    assert names(f"{root}/top.csv") == ["top.csv"]
    assert names(f"{root}/*.csv") == ["top.csv"]
    file = expand([f"{root}/news/a.csv"])[0]
    assert file.url == f"{root}/news/a.csv"
    assert read_columns(file) == ("text", "label")
    with fetched(file, tmp_path) as path:
        assert path.read_text() == CSV
    assert list(tmp_path.iterdir()) == []
    first = fingerprint((f"{root}/news",))
    put(s3_bucket, "news/a.csv", b"text,label\nother,x\n")
    assert fingerprint((f"{root}/news",)) != first


KEYS = (
    "data[1].csv",
    "data1.csv",
    "run[1]/a.csv",
    "run1/b.csv",
    "out.csv/part-0.csv",
    "out.csv/_SUCCESS",
    "out.csv/.part-0.csv.crc",
    "out.csv/_temporary/part-1.csv",
    "a/x.csv",
    "a-b/x.csv",
    "a b/100%20.csv",
    "a b/50%.csv",
    "star/*.csv",
    "star/one.csv",
    "star/what?.csv",
    "é/ü.csv",
    ".hidden/h.csv",
    "_kept/k.csv",
    "deep/1/2/3.jsonl",
)


@pytest.mark.parametrize("bucket", [False, True])
def test_names_mean_the_same_in_a_folder_and_in_a_bucket(bucket: bool, request: pytest.FixtureRequest, tmp_path: Path):
    if bucket:
        name = request.getfixturevalue("s3_bucket")
        root = f"s3://{name}"
        for key in KEYS:
            put(name, key, key.encode())
    else:
        root = str(tmp_path)
        for key in KEYS:
            write(tmp_path / key, key)

    def found(pattern: str, csv: Csv | None = None) -> list[str]:
        files = expand([f"{root}/{pattern}"], csv)
        keys = [file.url.removeprefix(f"{root}/") for file in files]
        for file, key in zip(files, keys, strict=True):
            with fetched(file, tmp_path) as path:
                assert path.read_text() == key
        return keys

    assert found("data[1].csv") == ["data[1].csv"]
    assert found("data[12].csv") == ["data1.csv"]
    assert found("run[1]") == ["run[1]/a.csv"]
    assert found("run[1-3]/*") == ["run1/b.csv"]
    assert found("out.csv") == found("out.csv/") == found("out.csv/*") == found("out.csv/**") == ["out.csv/part-0.csv"]
    assert found("out.csv/_temporary/*") == found("out.csv/_t*/*.csv") == ["out.csv/_temporary/part-1.csv"]
    assert found("out.csv/_SUCCESS", Csv()) == ["out.csv/_SUCCESS"]
    assert found("a*/x.csv") == ["a/x.csv", "a-b/x.csv"]
    assert found("a b") == ["a b/100%20.csv", "a b/50%.csv"]
    assert found("a b/50%.csv") == ["a b/50%.csv"]
    assert found("star/*.csv") == ["star/*.csv"]
    assert found("star/[*].csv") == ["star/*.csv"]
    assert found("star/?ne.csv") == ["star/one.csv"]
    assert found("star/what?.csv") == ["star/what?.csv"]
    assert found("é/ü.csv") == found("?/ü.csv") == ["é/ü.csv"]
    for deep in ("deep", "deep/**", "deep/**/*.jsonl", "**/3.jsonl", "**3.jsonl", "deep/*/*/*"):
        assert found(deep) == ["deep/1/2/3.jsonl"]
    assert found("_kept") == found("_kept/k.csv") == ["_kept/k.csv"]
    assert found(".h*/*.csv") == [".hidden/h.csv"]
    assert found("") == sorted(
        (key for key in KEYS if format_of(key) and "/_" not in key and key[0] not in "._"),
        key=lambda key: key.split("/"),
    )
    for nothing in ("data[1].jsonl", "deep/*/3.jsonl", "st", "star/what?"):
        with pytest.raises(DataError):
            found(nothing)


def test_keys_of_others_with_empty_parts(s3_bucket: str, tmp_path: Path):
    for key in ("dbl//a.csv", "dbl/a.csv", "/top.csv"):
        put(s3_bucket, key, key.encode())
    root = f"s3://{s3_bucket}"
    for place, keys in (
        ("dbl", ["dbl//a.csv", "dbl/a.csv"]),
        ("dbl//a.csv", ["dbl//a.csv"]),
        ("dbl//*", ["dbl//a.csv"]),
        ("dbl/*", ["dbl/a.csv"]),
        ("/top.csv", ["/top.csv"]),
    ):
        files = expand([f"{root}/{place}"])
        assert [file.url for file in files] == [f"{root}/{key}" for key in keys]
        for file in files:
            with fetched(file, tmp_path) as path:
                assert f"{root}/{path.read_text()}" == file.url


def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    folder = tmp_path / "data"
    write(folder / "a.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    for place in (tmp_path / "pipe.csv", "/dev/zero"):
        with pytest.raises(DataError, match=r"neither a file nor a folder \(it may be a pipe or a device"):
            names(place)
    with pytest.raises(DataError, match="no such file or folder"):
        names("/dev/stdin/x")
    os.mkfifo(folder / "b.csv")
    (folder / "other").symlink_to("/nowhere")
    with pytest.raises(DataError, match="neither a file nor a folder") as caught:
        names(folder)
    assert caught.value.where == f"{folder}/b.csv"
    assert names(f"{folder}/a*") == ["a.csv"]
    (folder / "b.csv").unlink()
    (folder / "b.csv").symlink_to("gone.csv")
    with pytest.raises(DataError, match=r"it is a link to gone\.csv, where nothing is"):
        names(folder)
    with pytest.raises(DataError, match=r"it is a link to gone\.csv, where nothing is"):
        names(folder / "b.csv")


def test_linked_folders_are_followed_once(tmp_path: Path):
    write(tmp_path / "elsewhere" / "b.csv")
    write(tmp_path / "data" / "a.csv")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "self").symlink_to(tmp_path / "data")
    assert names(tmp_path / "data") == ["a.csv", "more/b.csv"]
    (tmp_path / "data" / os.fsdecode(b"\xff.csv")).write_text(CSV)
    with pytest.raises(DataError, match="the name of a file is not UTF-8"):
        names(tmp_path / "data")


def test_many_ways_to_one_folder_are_one(tmp_path: Path):
    for at in range(25):
        (tmp_path / f"{at}").mkdir()
        for name in ("a", "b"):
            (tmp_path / f"{at}" / name).symlink_to(tmp_path / f"{at + 1}")
    write(tmp_path / "25" / "x.csv")
    (tmp_path / "latest").symlink_to(tmp_path / "25")
    assert names(tmp_path) == ["25/x.csv"]
    assert names(tmp_path / "0") == ["/".join(["a"] * 25) + "/x.csv"]
    # A link is a name like others for a pattern that asks for it.
    assert names(f"{tmp_path}/late*/*.csv") == names(f"{tmp_path}/**/latest/*.csv") == ["latest/x.csv"]
    assert names(f"{tmp_path}/**/2[45]/**/**/x.csv") == ["25/x.csv"]


def test_a_folder_of_more_than_anybody_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("retrainer.sources.files._MOST_ENTRIES", 5)
    for name in "abc":
        write(tmp_path / name / "x.csv")
    for place in (tmp_path, f"{tmp_path}/**/*.csv"):
        with pytest.raises(
            DataError, match=r"more than 5 files and folders below it .name the folder more closely"
        ) as e:
            names(place)
        assert e.value.where == str(tmp_path)
    assert names(f"{tmp_path}/a/*.csv") == ["x.csv"]


def test_s3_errors(s3_bucket: str):
    put(s3_bucket, "news/train.csv")
    root = f"s3://{s3_bucket}"
    for address, message in (
        (f"{root}/news/trian.csv", r"no such object, and none below it \(did you mean 'train.csv'\?\)"),
        (f"{root}/news/*.parquet", r"no object matches \(.* holds train.csv\)"),
        (f"{root}/other", "no such object, and none below it"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            names(address)
        assert caught.value.where == address
    with pytest.raises(StorageError):
        names("s3://no-such-bucket-anywhere/x.csv")


def test_light():
    code = (
        "import sys, retrainer.sources, retrainer.artifacts.snapshot;"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'pyarrow', 'boto3', 'huggingface_hub'}"
        " & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
