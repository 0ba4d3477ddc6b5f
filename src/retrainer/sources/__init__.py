"""Where a pipeline's data is: the files that a source names, their columns, and what identifies their content.

``files.py`` finds files in folders and buckets, ``hub.py`` pins what is on the hub, ``text.py`` opens text,
``delimited.py`` settles how a file of rows and fields is read, ``label_names.py`` what a label's spelling means,
``columns.py`` reads headers, ``arrivals.py`` tells what is new. Light: pyarrow and huggingface_hub are loaded only
where a parquet file or a hub dataset asks for it. Reading rows is the ingest step's business
(``retrainer.work.ingest``).
"""

from retrainer.sources.columns import read_columns
from retrainer.sources.files import SourceFile, expand, fetched
from retrainer.sources.identity import fingerprint

__all__ = ["SourceFile", "expand", "fetched", "fingerprint", "read_columns"]
