"""The verb `push`."""

from pathlib import Path
from typing import Any

from tutelage.export.push import push_artifact


def push(
    export: str,
    repository: str,
    *,
    base: str | None = None,
    public: bool = False,
    message: str = "Add the model and its parity figures",
) -> dict[str, Any]:
    """Where the export is now: `repository`, `private`, `commit`, `files`."""
    return push_artifact(Path(export), repository, base=base, public=public, message=message)
