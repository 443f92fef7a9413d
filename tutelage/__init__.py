"""Supervised fine-tuning the whole way: labelled data to a tuned, checked language model you can talk to.

The public names stand in one table and are imported when they are first used, so `import tutelage` costs nothing.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

HOMES = {
    "Problem": "tutelage.errors",
    "Recipe": "tutelage.recipe",
    "TutelageError": "tutelage.errors",
    "chat": "tutelage.verbs.chat",
    "compare": "tutelage.verbs.compare",
    "data_check": "tutelage.verbs.data",
    "data_merge": "tutelage.verbs.data_merge",
    "data_prepare": "tutelage.verbs.data",
    "data_review": "tutelage.verbs.data_review",
    "doctor": "tutelage.verbs.doctor",
    "estimate": "tutelage.verbs.estimate",
    "evaluate": "tutelage.verbs.evaluate",
    "export": "tutelage.verbs.export",
    "make_recipe": "tutelage.recipe",
    "models_describe": "tutelage.verbs.models",
    "models_get": "tutelage.verbs.models",
    "models_list": "tutelage.verbs.catalog",
    "preview": "tutelage.verbs.preview",
    "push": "tutelage.verbs.push",
    "quickstart": "tutelage.verbs.quickstart",
    "read_recipe": "tutelage.recipe",
    "report": "tutelage.verbs.report",
    "runs": "tutelage.verbs.runs",
    "selftest": "tutelage.verbs.selftest",
    "serve": "tutelage.verbs.serve",
    "train": "tutelage.verbs.train",
}

__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """This package: importing a part that has a verb's name (train, report, runs) does not hide the verb."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
