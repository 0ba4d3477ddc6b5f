"""Checks of a deployment: whether what runs need is there, and how to mend what is not.

A check is one entry in ``checks.py``: a title, and a function of the ``Deployment`` that yields findings. Whoever knows
more than this package, as Airflow's layer does, adds entries of its own. Nothing that a check makes stays.
Not here: whether one pipeline file fits its data and its base model (``retrainer check``), and how findings are
printed.
"""
