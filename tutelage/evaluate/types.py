"""What evaluation hands on: scores of one system, and the comparison of two. All are written as JSON."""

from dataclasses import dataclass, field
from typing import Any

from tutelage.metrics.intervals import Difference, Estimate


@dataclass(frozen=True)
class Scores:
    """The scores of one system: a model, or a trivial baseline. `left_out` names metrics that do not apply, and why."""

    system: str
    metrics: dict[str, Estimate]
    predictions: str = ""  # the file that holds them
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """`second` against `first` on the same `n` rows, metric by metric, and the rows whose output changed most."""

    first: str
    second: str
    n: int
    differences: dict[str, Difference]
    changed: list[dict[str, Any]] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """One verdict a metric."""
        return [
            f"{name}: {one.sentence} ({one.first:.4g} → {one.second:.4g}, difference {one.value:+.3g}, "
            f"95 % interval {one.low:+.3g} to {one.high:+.3g}, {one.method})"
            for name, one in self.differences.items()
        ]
