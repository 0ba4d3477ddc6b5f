"""The steps, one module each: what it hands on, how it is planned, and its definition. ``order.py`` lists them."""
