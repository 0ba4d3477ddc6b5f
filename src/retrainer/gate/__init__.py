"""The decision: policy and per-row predictions in, receipt out. Pure; see ``decide.py``.

``records`` is light. The other modules load numpy, scipy, scikit-learn or pyarrow and are imported in the process of
a step only, so nothing is imported here.
"""
