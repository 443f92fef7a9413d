"""Exports of a trained model, one kind a file; importing this package registers them."""

from tutelage.export import gguf_file, merged, ollama, peft_adapter
from tutelage.export.types import EXPORTERS

__all__ = ["EXPORTERS", "gguf_file", "merged", "ollama", "peft_adapter"]
