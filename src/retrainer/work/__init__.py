"""What the steps do, each in a process of its own: the only importer of torch and transformers.

``python -m retrainer.work STEP REQUEST.json`` (see ``__main__.py``). A step is a function
``run(request, inputs, folder, reporter)`` that fills a folder and returns the record that the step hands on
(``chain/steps/``); ``__main__`` stages, locks, commits and reports. Nothing here knows Airflow.
"""
