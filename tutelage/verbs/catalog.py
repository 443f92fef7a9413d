"""The verb `models list`, apart from the others because it needs nothing that is slow to import."""

from typing import Any

from tutelage.models.catalog import CATALOG


def models_list() -> dict[str, Any]:
    """The catalogue: `models`, each with its name, hub id, wheel, parameters, context, licence and a sentence."""
    return {
        "models": [
            {
                "name": entry.name, "parameters": entry.parameters, "context": entry.context, "licence": entry.licence,
                "hub": entry.hub, "wheel": entry.wheel.requirement if entry.wheel else None, "family": entry.family,
                "about": entry.about,
            }
            for entry in CATALOG.values()
        ]
    }  # fmt: skip
