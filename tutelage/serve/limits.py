"""What the server grants: sizes, times and numbers, in one value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes and tokens, times in seconds."""

    slots: int = 8  # streams that run at a time
    queue: int = 64  # streams that wait; beyond them: 429
    body: int = 1 << 20
    answer: int = 4096  # the most `max_tokens` of one request
    default_answer: int = 512  # where a chat request names none
    choices: int = 8  # the most `n`
    seconds: float = 300.0  # one request
    drain: float = 30.0  # how long a stopping server lets streams finish
    prefill: int = 256  # prompt tokens read per step
    keep: int = 8192  # tokens of finished streams kept for prompts that begin alike
