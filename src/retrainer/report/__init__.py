"""What people read: a run, a decision, a model card, an HTML page and its charts.

Not here: what is decided (``gate/``), colour and layout of a terminal (``cli/``).
"""
