"""A model's config with only its first layers: enough of it to compare computations on, in a second instead of a minute."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

FEWEST_LAYERS = 2  # so that a gradient crosses from one layer into another


def shallow_config(path: Path) -> PretrainedConfig:
    """The config in the folder `path`, cut behind the first layers that hold one of each kind."""
    config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    return cut(config)


def cut(config: Any) -> PretrainedConfig:
    """`config` itself, with its layer count and every list that has one entry per layer shortened."""
    inner = getattr(config, "text_config", None) or config
    total = inner.num_hidden_layers
    kinds = list(getattr(inner, "layer_types", None) or ())
    needed = max((kinds.index(kind) + 1 for kind in set(kinds)), default=1)
    keep = min(total, max(FEWEST_LAYERS, needed))
    for name, value in list(vars(inner).items()):
        if isinstance(value, list | tuple) and len(value) == total:
            setattr(inner, name, value[:keep])
    inner.num_hidden_layers = keep
    return config
