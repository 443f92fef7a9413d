"""How the held-out numbers of a run are called: a loss means something else for each task."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measures:
    """`unit` of the loss, what the share of right ones counts, what is scored, and whether exp(loss) is a perplexity."""

    unit: str
    right: str
    target: str
    perplexity: bool = False


TOKENS = Measures("nats per target token", "Next token right", "target token", perplexity=True)
MASKED = Measures("nats per masked token", "Masked token right", "masked token", perplexity=True)
LABELS = Measures("nats per label", "Label right", "label")
SEVERAL = Measures("nats per label that may hold", "All labels of a row right", "row")
NUMBERS = Measures("squared error", "Within half a point", "number")
TAGS = Measures("nats per word", "Tag right", "word")
SPANS = Measures("nats per start or end", "Start and end right", "window")
PLAIN = {"classify": LABELS, "tag": TAGS, "extract": SPANS}


def measures(task: dict[str, Any]) -> Measures:
    """The names for a recipe's `task` part; those of tokens where nothing else is known."""
    if task.get("verbalised"):
        return TOKENS
    if task.get("num_labels") == 1:
        return NUMBERS
    if task.get("multi_label"):
        return SEVERAL
    if task.get("objective") == "masked":
        return MASKED
    return PLAIN.get(str(task.get("kind")), TOKENS)
