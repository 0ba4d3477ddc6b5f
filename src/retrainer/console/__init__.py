"""The console: pages about the published models, for people. Read-only, server-rendered.

It knows nothing of Airflow: ``retrainer.airflow.console`` mounts it and tells it which pipelines there are, who asks,
and what the runs came to (``host.py``). Each page is a frozen record first (``overview.py``, ``model.py``,
``decision.py``), which is its JSON, and then a template in ``pages/``.
"""
