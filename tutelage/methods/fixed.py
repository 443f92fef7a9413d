"""Tables that a model's own class never trains, such as Marian's and Pegasus's sinusoidal positions.

They are computed from their shape. transformers' loader (5.24) forgets that they are fixed, and its writer leaves Marian's out:
trained, they would be lost when the model is saved.
"""

from typing import Any

import torch


def freeze_tables(model: Any) -> set[str]:
    """Freeze the parameters that the class of `model` makes without a gradient; returns their names."""
    with torch.device("meta"):
        made = type(model)(model.config)
    tables = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
    for name in tables:
        model.get_parameter(name).requires_grad_(False)
    return tables
