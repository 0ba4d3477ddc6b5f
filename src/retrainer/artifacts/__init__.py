"""What the steps leave: artifacts by digest, and the typed records in them.

``repository.py`` finds, fetches, stages and commits; each other module is the record that one step leaves for those
after it. Not here: what goes into a digest (``chain/``), what a step does (``work/``).
"""
