"""A run: step processes, their messages relayed, devices, run folders, and the whole chain without Airflow.

Not here: which step runs on what (``chain/``), what a step does (``work/``).
"""
