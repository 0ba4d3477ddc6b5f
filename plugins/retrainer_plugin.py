"""Registers the plugin with Airflow; see ``retrainer.airflow.plugin``.

Named unlike the package: Airflow imports every file of this folder as a top-level module by its name.
"""

from retrainer.airflow.plugin import RetrainerPlugin

__all__ = ["RetrainerPlugin"]
