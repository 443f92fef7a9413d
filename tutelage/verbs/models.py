"""The verbs `models describe` and `models get`."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.models.describe import describe
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref
from tutelage.models.safetensors_file import sha256_of

Say = Callable[[str], None]


def quiet(text: str) -> None:
    """Hear a line and do nothing with it."""


def models_describe(model: str, *, say: Say = quiet) -> dict[str, Any]:
    """What the headers of `model` say; it is fetched if it is not here yet. A GGUF file is read where it lies."""
    ref = parse_ref(model)
    if ref.kind == "gguf":
        file = Path(ref.name)
        return {"model": model, **asdict(describe(file)), "source": f"gguf:{file.name}", "sha256": sha256_of((file,))}
    fetched = fetch(ref, say=say)
    return {"model": model, **asdict(describe(fetched.path)), "source": fetched.source, "sha256": fetched.sha256}


def models_get(model: str, *, say: Say = quiet) -> dict[str, Any]:
    """`path`, `source` and `sha256` of `model` on this machine, fetched if it is not here yet."""
    fetched = fetch(parse_ref(model), say=say)
    return {"path": fetched.path, "source": fetched.source, "sha256": fetched.sha256}
