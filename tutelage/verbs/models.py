"""The verbs `models describe` and `models get`."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tutelage.models.describe import describe
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref

Say = Callable[[str], None]


def quiet(text: str) -> None:
    """Hear a line and do nothing with it."""


def models_describe(model: str, *, say: Say = quiet) -> dict[str, Any]:
    """What the config and the weights' headers of `model` say; it is fetched if it is not here yet."""
    fetched = fetch(parse_ref(model), say=say)
    return {"model": model, **asdict(describe(fetched.path)), "source": fetched.source, "sha256": fetched.sha256}


def models_get(model: str, *, say: Say = quiet) -> dict[str, Any]:
    """`path`, `source` and `sha256` of `model` on this machine, fetched if it is not here yet."""
    fetched = fetch(parse_ref(model), say=say)
    return {"path": fetched.path, "source": fetched.source, "sha256": fetched.sha256}
