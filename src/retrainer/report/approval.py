"""What a person sees who is asked whether a model may go live: figures, what moved, what flipped, where there is more.

Pure and light. Not here: what is said of a decision (``decision.py``), asking (``airflow/operators/approve.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

from retrainer.gate.receipt import Receipt
from retrainer.report.decision import decision_markdown, moved_slices
from retrainer.report.flips import Flips, flips_part


def approval_markdown(receipt: Receipt, flips: Flips | None, links: Mapping[str, str]) -> str:
    """The page.

    :param flips: with texts only where the gate lets reports show them; ``None`` where nothing was compared, or an
        older version of retrainer decided.
    :param links: words to address.
    """
    parts = [part for part in (moved_slices(receipt), flips_part(flips)) if part.said]
    blocks = [decision_markdown(receipt), *(f"### {part.title}\n\n{part.markdown()}" for part in parts)]
    if links:
        blocks.append("### More\n\n" + "\n".join(f"- [{words}]({address})" for words, address in links.items()))
    return "\n\n".join(blocks)
