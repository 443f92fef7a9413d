"""Counters of the server in Prometheus' text format."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Counted(Protocol):
    """An engine, as far as it is counted here."""

    @property
    def running(self) -> int:
        """Streams, or requests of tasks, that are being computed."""
        ...

    @property
    def waiting(self) -> int:
        """Those that are not yet."""
        ...


class Metrics:
    """What has happened since the start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.tokens: Counter[str] = Counter()
        self.first: Counter[float] = Counter()
        self.first_sum = 0.0
        self.first_count = 0

    def request(self, route: str, status: int) -> None:
        """One more request was answered."""
        self.requests[route, status] += 1

    def answered(self, prompt: int, completion: int, shared: int, first: float | None) -> None:
        """The tokens of a request, and its seconds to the first token."""
        self.tokens["prompt"] += prompt
        self.tokens["completion"] += completion
        self.tokens["shared"] += shared
        if first is not None:
            self.first_sum += first
            self.first_count += 1
            for bucket in BUCKETS:
                self.first[bucket] += first <= bucket

    def text(self, engines: Iterable[Counted]) -> str:
        """What `/metrics` answers."""
        return "\n".join(self._lines(list(engines))) + "\n"

    def _lines(self, engines: list[Counted]) -> Iterator[str]:
        yield "# HELP tutelage_requests_total Requests answered, by route and status."
        yield "# TYPE tutelage_requests_total counter"
        for (route, status), count in sorted(self.requests.items()):
            yield f'tutelage_requests_total{{route="{route}",status="{status}"}} {count}'
        yield "# HELP tutelage_tokens_total Tokens read (prompt), written (completion), taken over from earlier prompts (shared)."
        yield "# TYPE tutelage_tokens_total counter"
        for kind in ("prompt", "completion", "shared"):
            yield f'tutelage_tokens_total{{kind="{kind}"}} {self.tokens[kind]}'
        for name, value in (
            ("running", sum(engine.running for engine in engines)), ("waiting", sum(engine.waiting for engine in engines)),
        ):  # fmt: skip
            yield f"# HELP tutelage_streams_{name} Streams {name} now."
            yield f"# TYPE tutelage_streams_{name} gauge"
            yield f"tutelage_streams_{name} {value}"
        yield "# HELP tutelage_first_token_seconds Seconds from a request to its first token."
        yield "# TYPE tutelage_first_token_seconds histogram"
        for bucket in BUCKETS:
            yield f'tutelage_first_token_seconds_bucket{{le="{bucket}"}} {self.first[bucket]}'
        yield f'tutelage_first_token_seconds_bucket{{le="+Inf"}} {self.first_count}'
        yield f"tutelage_first_token_seconds_sum {self.first_sum:.6f}"
        yield f"tutelage_first_token_seconds_count {self.first_count}"
