"""Side-by-side measurements: ``python -m benchmarks.NAME``. Each prints a table and a ratio; none asserts."""
