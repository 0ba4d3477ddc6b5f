"""A checkpoint to a bundle folder: graphs, tokenizer, labels, golden rows, all checked against the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrainer.artifacts.parity import ParityReport
from retrainer.errors import ExportError
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.serve.encoding import TOKENIZER, load_tokenizer
from retrainer.serve.golden import GOLDEN, agreement, read_golden
from retrainer.serve.predictor import Predictor
from retrainer.serve.processor import cpu_features
from retrainer.serve.texts import Text
from retrainer.store.bundle import BundleInfo, GoldenRow, PrecisionEntry
from retrainer.work.export import parity
from retrainer.work.export.checkpoint import Checkpoint, load_checkpoint, reference_logits
from retrainer.work.export.graph import export_graph, input_names, quiet, weight_types
from retrainer.work.export.sample import Row, Sample, choose, thin
from retrainer.work.portable import make_portable, portable, write_config
from retrainer.work.snapshot_texts import TRAIN_ROWS, pack_row_ids

GOLDEN_ROWS = 16
# Where the two best labels are closer than this, another CPU may well choose the other one.
TIE_MARGIN = 0.02


def export_bundle(
    checkpoint_folder: Path,
    rows: Sequence[Row],
    folder: Path,
    *,
    task: str,
    labels: tuple[str, ...],
    max_length: int,
    precisions: Sequence[str] = (REFERENCE,),
    train_row_ids: Iterable[str] = (),
    fit: Callable[[], object] | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ParityReport:
    """Fill an empty folder with the bundle of a checkpoint. The same input gives the same bytes.

    :param rows: real rows to compare graph and checkpoint on, of the validation split.
    :param labels: what the logits should mean, in order.
    :param max_length: tokens after which a text is cut.
    :param train_row_ids: text keys of the rows the model was trained on, 16 hex digits each.
    :param fit: fits temperatures and thresholds and puts them into the bundle, once its graphs are known to compute
        what the checkpoint computes. At these thresholds labels are compared.
    :param on_stage: is told what is being done.
    :return: how well the graphs agree with the checkpoint.
    :raises ModelError: the checkpoint cannot be read, or not be published.
    :raises ExportError: it cannot be traced, or the graph computes something else.
    """
    on_stage("loading the checkpoint")
    checkpoint = load_checkpoint(checkpoint_folder, labels, task)
    folder.mkdir(parents=True, exist_ok=True)
    on_stage(f"tracing the {REFERENCE} graph")
    graphs = {name: folder / PRECISIONS[name].file for name in sorted(precisions)}
    traced = graphs[REFERENCE]
    exporter = export_graph(checkpoint, traced, max_length=max_length)
    write_tokenizer(checkpoint.tokenizer, folder, max_length)
    _write_config(checkpoint, folder)
    sample = choose(rows, load_tokenizer(folder, None), max_length=max_length, count=parity.ROWS)

    def make() -> None:
        for name, graph in graphs.items():
            if name != REFERENCE:
                PRECISIONS[name].maker()(traced, graph)

    others = ", ".join(name for name in graphs if name != REFERENCE)
    on_stage(f"scoring the checkpoint{f', making the {others} graph' if others else ''}")
    # Making a graph keeps one core busy; beside it the checkpoint answers, and is compared with the graph it has. Both
    # silence what concerns the whole process, and this is the thread that restores it.
    with quiet(), ThreadPoolExecutor(1) as beside:
        making = beside.submit(make)
        reference = reference_logits(checkpoint, sample.texts, max_length)
        info = BundleInfo(
            task=task,
            labels=labels,
            max_length=max_length,
            inputs=input_names(traced),
            pad_token_id=checkpoint.tokenizer.pad_token_id,
            pad_token_type_id=checkpoint.tokenizer.pad_token_type_id,
            padding_side=checkpoint.tokenizer.padding_side,
            precisions={REFERENCE: _entry(REFERENCE, traced)},
            tie_margin=TIE_MARGIN,
        )
        info.save(folder)
        parity.check_reference(folder, sample, reference, labels)
        of_traced = parity.measure(folder, REFERENCE, sample, reference)
        making.result()
    entries = {name: info.precisions.get(name) or _entry(name, graph) for name, graph in graphs.items()}
    info.model_copy(update={"precisions": entries}).save(folder)
    (folder / TRAIN_ROWS).write_bytes(pack_row_ids(train_row_ids))

    on_stage("comparing the graphs with it")
    measured = {
        name: of_traced if name == REFERENCE else parity.measure(folder, name, sample, reference) for name in graphs
    }
    if fit is not None:
        fit()
        # A predictor knows the thresholds that there were when it was loaded.
        measured = {
            name: replace(found, predictor=Predictor(folder, precision=name)) for name, found in measured.items()
        }
    report = parity.compare_labels(folder, sample, reference, measured, exporter=exporter)
    _write_golden(folder, sample, measured)
    return report


def _entry(precision: str, graph: Path) -> PrecisionEntry:
    return PrecisionEntry(
        file=PRECISIONS[precision].file,
        weight_types=weight_types(graph),
        cpu_features=cpu_features() if PRECISIONS[precision].depends_on_processor else None,
    )


def write_tokenizer(tokenizer: Any, folder: Path, max_length: int) -> None:
    """``tokenizer.json`` that cuts where the model was trained to be cut, and does not pad.

    :param tokenizer: a fast one.
    """
    # Kept in tokenizer_config.json: other runtimes cut there.
    tokenizer.model_max_length = max_length
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(
        max_length, strategy="longest_first", direction=getattr(tokenizer, "truncation_side", "right")
    )
    tokenizer.save_pretrained(folder)
    backend.save(str(folder / TOKENIZER))
    path = folder / "tokenizer_config.json"
    make_portable(path)
    keep = {TOKENIZER, path.name}
    for written in folder.iterdir():
        # Vocabulary files of older forms, chat templates: all that is needed is in tokenizer.json.
        if written.is_file() and written.name not in keep:
            written.unlink()


def _write_config(checkpoint: Checkpoint, folder: Path) -> None:
    config = checkpoint.model.config.to_dict()
    config |= {
        "id2label": {str(index): label for index, label in enumerate(checkpoint.labels)},
        "label2id": {label: index for index, label in enumerate(checkpoint.labels)},
        "architectures": [type(checkpoint.model).__name__],
    }
    write_config(folder / parity.CONFIG, portable(config))


def _write_golden(folder: Path, sample: Sample, graphs: Mapping[str, parity.Measured]) -> None:
    """Rows from shortest to longest with each graph's answer, asked one at a time."""
    positions = thin(sample, GOLDEN_ROWS)
    lines = [
        _golden_row(sample.rows[at].text, {name: measured.logits[1][at] for name, measured in graphs.items()})
        for at in positions
    ]
    (folder / GOLDEN).write_bytes(b"".join(line.to_json() + b"\n" for line in lines))
    golden = read_golden(folder)
    for name, measured in graphs.items():
        found = agreement(measured.predictor, golden)
        if not found.holds:
            raise ExportError(f"{name} does not repeat its own answers: {found}", where=str(folder))


def _golden_row(text: Text, logits: dict[str, Any]) -> GoldenRow:
    first, second = (text, None) if isinstance(text, str) else text
    return GoldenRow(
        text=first,
        text_pair=second,
        logits={name: tuple(float(value) for value in values) for name, values in logits.items()},
    )
