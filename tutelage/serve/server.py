"""What the routes share: the served models by name, and what may be asked of each."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tutelage.serve.limits import Limits
from tutelage.serve.metrics import Counted, Metrics
from tutelage.serve.problems import unknown_model, unsuited_model
from tutelage.serve.served import Served
from tutelage.serve.served_task import ServedTask

Log = Callable[[str], None]
Model = Served | ServedTask


class Runs(Counted, Protocol):
    """An engine, as far as the server itself looks at it."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; what comes out goes to this loop."""
        ...

    def stop(self) -> None:
        """End; what still runs is dropped."""
        ...


@dataclass
class Server:
    """The models with their limits and counters."""

    models: dict[str, Model]
    limits: Limits
    log: Log | None = None  # hears prompts and answers; None where they are nobody's business
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def engines(self) -> list[Runs]:
        """Each engine once."""
        return list({id(model.engine): model.engine for model in self.models.values()}.values())

    def refused(self, status: int) -> None:
        """Count a request that was turned away before any route saw it."""
        self.metrics.request("refused", status)

    def model(self, name: str) -> Model:
        """The model that a request names."""
        if name not in self.models:
            raise unknown_model(name, sorted(self.models))
        return self.models[name]

    def writer(self, name: str) -> Served:
        """The model that a request names, which must write text."""
        model = self.model(name)
        if not isinstance(model, Served):
            raise unsuited_model(name, model.about, model.routes)
        return model

    def task(self, name: str, kind: str) -> ServedTask:
        """The model that a request names, which must do the task `kind`."""
        model = self.model(name)
        if not isinstance(model, ServedTask) or model.task != kind:
            raise unsuited_model(name, model.about, model.routes)
        return model
