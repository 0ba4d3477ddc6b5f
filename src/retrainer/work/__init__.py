"""What the steps do, each in a process of its own: the only importer of torch and transformers.

``python -m retrainer.work STEP REQUEST.json`` (see ``__main__.py``). A step is a function
``run(request, inputs, folder, reporter) -> summary`` that fills a folder; ``__main__`` stages, locks, commits
and reports. Nothing here knows Airflow.
"""
