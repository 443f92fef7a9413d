"""Heads that a task adds: they train whole and are saved whole, whatever the method does with the rest of the model."""

from typing import Any

from torch import nn

TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS", "ForQuestionAnswering": "QUESTION_ANS",
}  # fmt: skip


def fresh_modules(model: Any) -> tuple[str, ...]:
    """Names of the modules outside the pre-trained body, and BERT's pooler, which many checkpoints lack; none for models
    that predict tokens, whose head is pre-trained."""
    if task_type(model) not in TASK_TYPES.values():
        return ()
    body = model.base_model
    heads = [name for name, module in model.named_children() if module is not body and list(module.parameters())]
    if isinstance(getattr(body, "pooler", None), nn.Module):
        heads.append(f"{model.base_model_prefix}.pooler")
    return tuple(heads)


def task_type(model: Any) -> str | None:
    """PEFT's word for what a model does; it has none for masked words."""
    name = type(model).__name__
    found = next((kind for suffix, kind in TASK_TYPES.items() if name.endswith(suffix)), None)
    if found or name.endswith("ForMaskedLM"):
        return found
    return "SEQ_2_SEQ_LM" if getattr(model.config, "is_encoder_decoder", False) else "CAUSAL_LM"


def is_inside(name: str, modules: tuple[str, ...]) -> bool:
    """Whether the parameter or module `name` belongs to one of `modules`."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
