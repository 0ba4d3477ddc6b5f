"""Near duplicates: texts with the same label that are almost the same.

Two texts are near duplicates at a similarity ``s`` when they have the same label and one of these holds, after
``text.simplify`` took away case, accents, punctuation and white space:

- they are the same;
- the Jaccard similarity of their five-grams of characters is at least ``s``, and both have 24 characters or more;
- they become the same when at most one word is left out of each, and the longer one has five words or more, as
  many that one word is at most ``1 - s`` of them, and at most 32: a word changed, added, removed or moved. Not when
  a number stands in the place of another number: that is another fact, not a copy.

Pairs are near duplicates when both their texts have that Jaccard similarity, or when the third rule holds for one
of the texts and the other is the same. So another question about the same passage is no near duplicate.

Texts with different labels never are: the word that makes the difference is what a model has to learn.

``search.py`` finds them among rows that are at hand, exactly; ``index.py`` keeps what is needed to find them later,
without the texts; ``features.py`` and ``text.py`` are what both are made of.
"""

NEAR_ROWS = "near_rows.bin"
"""Name of the index in a bundle."""
