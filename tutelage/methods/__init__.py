"""Fine-tuning methods, one file each; importing this package registers them."""

from tutelage.methods import full, half, lora
from tutelage.methods.types import METHODS, Method, Trainable

__all__ = ["METHODS", "Method", "Trainable", "full", "half", "lora"]
