"""Answers that do not fit their prompts, by a chat model's own surprise.

The instruction-following difficulty of Li et al. 2024 (arXiv 2308.12032, §2.2) is the model's loss on an answer after its
prompt, divided by its loss on the answer after nothing. From 1 on the prompt makes the answer no likelier: it may belong
to another one. The loss alone says less: of the rows it ranks highest two in five were wrong, of those by this ratio three in
four (bench/data/surprise.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tutelage.data.types import At, Conversation, Message
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import Backbone
from tutelage.errors import TutelageError
from tutelage.methods.opening import Opened
from tutelage.tasks.likelihood import backbone_of, target_losses

MOST_TOKENS = 2048  # of a row; longer ones are not judged
TOGETHER = 256  # rows between two lines of progress
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Surprise:
    """The loss of a conversation's last answer in nats per token, after what stands before it and after nothing."""

    row: Conversation
    loss: float
    alone: float

    @property
    def at(self) -> At:
        """Where the row stands."""
        return self.row.at

    @property
    def ratio(self) -> float:
        """The instruction-following difficulty: from 1 on, what stands before the answer makes it no likelier."""
        return self.loss / self.alone if self.alone else 1.0


def find_surprises(rows: Sequence[Conversation], opened: Opened, say: Say) -> list[Surprise]:
    """The rows whose answer is no likelier after its prompt, the least fitting first. It is a hint, not a verdict."""
    found = [each for each in measure(rows, opened, say) if each.ratio >= 1]
    return sorted(found, key=lambda each: (-each.ratio, each.at))


def measure(rows: Sequence[Conversation], opened: Opened, say: Say) -> Iterator[Surprise]:
    """The surprise of every row whose last turn is an answer; how many are too long, or cannot be shown, is said."""
    backbone = backbone_of(opened.model)
    answered = [row for row in rows if row.messages and row.messages[-1].role == "assistant"]
    judged = 0
    for first in range(0, len(answered), TOGETHER):
        chosen = [(row, pair) for row in answered[first : first + TOGETHER] if (pair := _encoded(row, opened.template))]
        for row, (loss, alone) in zip((row for row, _ in chosen), _losses([pair for _, pair in chosen], backbone)):
            yield Surprise(row, loss, alone)
        judged += len(chosen)
        say(f"{min(first + TOGETHER, len(answered)):,} of {len(answered):,} answers read")
    if judged < len(rows):
        say(f"{len(rows) - judged:,} conversations were not judged: no answer at their end, over {MOST_TOKENS:,} tokens, "
            "or nothing that the model's template can show")  # fmt: skip


def _encoded(row: Conversation, template: Template) -> tuple[Encoded, Encoded] | None:
    """The row, and its last answer after an empty question."""
    answer = replace(row.messages[-1], weight=1.0)
    before = tuple(
        replace(message, weight=0.0) if message.role == "assistant" else message for message in row.messages[:-1]
    )
    try:
        whole, alone = template.encode(
            [replace(row, messages=(*before, answer)), Conversation((Message("user", ""), answer), row.at)], "last"
        )
    except TutelageError:
        return None
    return (whole, alone) if len(whole.ids) <= MOST_TOKENS and any(whole.weights[1:]) else None


def _losses(pairs: Sequence[tuple[Encoded, Encoded]], backbone: Backbone) -> Iterator[tuple[float, float]]:
    means = [float(losses.mean()) for losses in target_losses(backbone, [each for pair in pairs for each in pair])]
    return zip(means[0::2], means[1::2])
