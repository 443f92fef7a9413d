"""A model with a head of its own: classification, tagging, extraction, masked words. Families stay in here.

The head is applied to the hidden states that matter only, so rows can be packed: packed classification reads each row's
first token (encoders) or last one (decoders), and a pooler or a dense layer before the classifier sees just those.
Which of the known rules a model follows, and where its positions begin, is found by comparing with the model's own
output on a few tokens. A model that follows none runs the plain way, row by row, with a note.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.encode.types import Layout, Segment
from tutelage.engine.attention import NAME, register
from tutelage.engine.backbone import PROBE_TOKENS, Backbone, close, with_stack
from tutelage.engine.plan import Plan

Apply = Callable[[Tensor], Tensor]


def _nothing(hidden: Tensor) -> Tensor:
    raise RuntimeError("this model's head rule is not known")


@dataclass(frozen=True)
class Headed(Backbone):
    """A body with a head. `apply`: [M, H] → [M, C]. `last`: a row is read at its last token, not at its first."""

    apply: Apply = _nothing
    last: bool = False

    def scores(self, layout: Layout, *, fast: bool = True) -> Tensor:
        """[M, C]: the head's outputs at the layout's sources, in at least fp32."""
        if self.plain_logits:
            out = self._run(self.model, layout, fast, self._embeddings(layout))
            logits = outputs(out)
            scores = logits if logits.shape[0] == len(layout.sources) else logits[layout.sources]
        else:
            states, where = self.read(layout, fast=fast)
            scores = self.apply(states)[where]
        return scores if scores.dtype == torch.float64 else scores.float()


def outputs(out: Any) -> Tensor:
    """[tokens or 1, C]: what the model's own forward says of a row; start and end of an answer are two columns."""
    if "start_logits" in out:
        return torch.stack((out.start_logits[0], out.end_logits[0]), -1)
    logits: Tensor = out.logits
    return logits[0] if logits.dim() == 3 else logits


def make_headed(model: Any) -> Headed:
    """The backbone of a model with a head of its own; switches it to our attention where that passes its comparison."""
    register()
    original, kind = model.config._attn_implementation, model.config.model_type
    notes = []
    with torch.no_grad():
        rows = [_probe(model, PROBE_TOKENS, 0), _probe(model, PROBE_TOKENS // 2, 1)]
        theirs = [outputs(model(input_ids=row[None])) for row in rows]
        hidden = [model.base_model(input_ids=row[None]).last_hidden_state[0] for row in rows]
        rule, last = _rule(model, hidden, theirs)
        first = _first_position(model, rows, hidden)
    if rule is None:
        notes.append(f"the head of {kind} is not known: rows run one by one through the whole model")
    packs = rule is not None and first is not None
    if not packs:
        model.set_attn_implementation(original)
        if rule is not None:
            notes.append(f"{kind} cannot keep packed rows apart: one row per micro-batch")
    headed = Headed(
        model, model.base_model, model, 1.0, None, packs, rule is None, tuple(notes), shares=packs and _is_causal(model),
        first_position=first or 0, apply=rule or _nothing, last=last,
    )  # fmt: skip
    return with_stack(headed)


def _probe(model: Any, count: int, number: int) -> Tensor:
    """`count` ids that are not the padding id, whose presence would change positions or the pooled token."""
    weight: Tensor = model.get_input_embeddings().weight
    ids = (torch.arange(count, device=weight.device) * 7919 + 101 * number + 11) % weight.shape[0]
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    return ids if pad is None else torch.where(ids == pad, (ids + 1) % weight.shape[0], ids)


def _rules(model: Any) -> Iterator[Apply]:
    """Heads that transformers' classes have, by the names of their parts."""
    body = model.base_model
    part: Callable[[str], Any] = lambda name: getattr(model, name, None)  # noqa: E731
    for name in ("score", "qa_outputs", "classifier", "cls", "lm_head"):
        if isinstance(part(name), nn.Module):
            yield part(name)  # Llama; BERT's answers; BERT's tags; BERT's and RoBERTa's masked words
    classifier = part("classifier")
    if isinstance(classifier, nn.Module):
        yield lambda h: classifier(h[:, None])  # RoBERTa, ELECTRA: they take the first token themselves
        if isinstance(getattr(body, "pooler", None), nn.Module):
            yield lambda h: classifier(body.pooler(h[:, None]))  # BERT
        if part("pre_classifier") is not None:
            yield lambda h: classifier(torch.relu(part("pre_classifier")(h)))  # DistilBERT
        if part("head") is not None:
            yield lambda h: classifier(part("head")(h))  # ModernBERT
    if part("decoder") is not None and part("head") is not None:
        yield lambda h: part("decoder")(part("head")(h))  # ModernBERT's masked words
    if part("vocab_transform") is not None:
        yield lambda h: part("vocab_projector")(
            part("vocab_layer_norm")(nn.functional.gelu(part("vocab_transform")(h)))
        )  # DistilBERT's masked words


def _rule(model: Any, hidden: list[Tensor], theirs: list[Tensor]) -> tuple[Apply | None, bool]:
    """The head rule that gives the model's own outputs, and whether it reads the last token of a row.

    Decoders are asked for the last one first: of a model without values (`engine/tally.py`) every rule is right.
    """
    pooled = theirs[0].shape[0] == 1 and hidden[0].shape[0] > 1
    expected = torch.cat(theirs)
    places = sorted((False, True), reverse=_is_causal(model)) if pooled else [False]
    for rule in _rules(model):
        for last in places:
            at = -1 if last else 0
            given = torch.stack([h[at] for h in hidden]) if pooled else torch.cat(hidden)
            try:
                ours = rule(given)
            except (RuntimeError, IndexError, TypeError):  # a part of another shape than this rule expects
                continue
            if ours.shape == expected.shape and close(ours, expected):
                return rule, last
    return None, False


def _first_position(model: Any, rows: list[Tensor], hidden: list[Tensor]) -> int | None:
    """Where positions begin so that two packed rows give the hidden states of each alone; None where none does.

    Leaves our attention switched on.
    """
    layers = set(getattr(model.config, "layer_types", None) or ())
    if layers - {"full_attention", "sliding_attention"}:
        return None
    model.set_attn_implementation(NAME)
    a, b = (len(row) for row in rows)
    positions = torch.cat((torch.arange(a), torch.arange(b))).to(rows[0].device)
    plan = Plan((Segment(0, a), Segment(a, a + b)))
    pad: int | None = getattr(model.config.get_text_config(), "pad_token_id", None)
    for first in (0, *([pad + 1] if pad is not None else [])):
        try:
            packed = model.base_model(
                input_ids=torch.cat(rows)[None], position_ids=positions[None] + first, use_cache=False, plan=plan
            ).last_hidden_state[0]
        except (
            TypeError,
            RuntimeError,
            ValueError,
            IndexError,
        ):  # passes no plan to its attention, or has no such place
            continue
        if close(packed[:a], hidden[0]) and close(packed[a:], hidden[1]):
            return first
    return None


def _is_causal(model: Any) -> bool:
    return any(bool(getattr(module, "is_causal", False)) for module in model.modules())
