"""retrainer keeps text classifiers fresh: an Airflow plugin, a command line and a small client.

Importing this package imports nothing else. Use ``retrainer.serve`` to load a published model,
``retrainer.airflow`` to write a DAG, and the ``retrainer`` command for everything by hand.
"""

__version__ = "0.1.0"
