"""What commands load sooner or later, for ``warm.py``; nothing of it starts a thread or reads the environment."""

import boto3  # noqa: F401
import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
import numpy  # noqa: F401
import onnxruntime  # noqa: F401
import pandas  # noqa: F401
import pyarrow.csv
import pyarrow.dataset
import pyarrow.json
import pyarrow.parquet  # noqa: F401
import scipy.optimize
import scipy.special
import scipy.stats  # noqa: F401
import sklearn.calibration  # noqa: F401
import tokenizers  # noqa: F401

import retrainer.cli  # noqa: F401
