"""What the engine must know of a causal model: its body, its head, its logit rule, and whether rows may be packed.

Nothing is believed from the config alone: at load the head's rule is compared with the model's own logits, and packing
with separate rows, on a few tokens. A model that fails a comparison runs the plain way, with a note.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tutelage.encode.types import Layout, Segment
from tutelage.engine.attention import NAME, register
from tutelage.engine.decoder import DecoderStack
from tutelage.engine.encoder import EncoderStack
from tutelage.engine.loss import Head
from tutelage.engine.noise import noisy
from tutelage.engine.plan import Plan
from tutelage.engine.stack import Keep, Stack

PROBE_TOKENS = 16
# fp64 models still hold fp32 roundings of their own (norms, softmax in eager attention)
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}


@dataclass(frozen=True)
class Backbone:
    """A causal model in the engine's terms. `notes` say what had to run the plain way, and why."""

    model: Any
    body: Any
    head: nn.Module
    scale: float
    softcap: float | None
    packs: bool
    plain_logits: bool
    notes: tuple[str, ...] = ()
    shares: bool = True  # whether rows may share a prefix; bidirectional models see what follows it
    first_position: int = 0  # RoBERTa counts from its padding index
    stack: Stack | None = None  # the body as hand-written layers, where the model is of a kind they know
    keep: Keep = Keep.ALL  # what layers save for the backward; execution only
    noise: float = 0.0  # NEFTune's alpha: noise on the embeddings wherever gradients are computed
    attention: str = "sdpa"  # transformers' own, that the model came with: for generation, and for padded batches

    def keeping(self, keep: Keep) -> "Backbone":
        """The same with layers that save `keep` for the backward; a model's own layers save all or only their input."""
        if self.stack is None:
            checkpoint_layers(self.model, keep is Keep.INPUT)
        return replace(self, keep=keep)

    def settled(self) -> "Backbone":
        """The same once a method has wrapped layers: the model's own forward where ours do not know one of them."""
        if self.stack is None or self.stack.knows_linear_layers():
            return self
        note = "layers with DoRA run through the model's own forward, which is slower: ours do not know them"
        return replace(self, stack=None, notes=(*self.notes, note))

    def head_rule(self) -> Head:
        """The head for the loss without logits; reads the weight anew, as training may have replaced it."""
        bias = getattr(self.head, "bias", None)
        return Head(self.head.weight, bias, self.scale, self.softcap)  # type: ignore[arg-type]

    def hidden(self, layout: Layout, *, fast: bool = True) -> Tensor:
        """[N, H]: the last hidden state of every token of the layout."""
        given = self._embeddings(layout)
        states = self.stack.run(layout, self.keep, None, given) if fast and self.stack else None
        return self._run(self.body, layout, fast, given).last_hidden_state[0] if states is None else states

    def at_sources(self, layout: Layout, *, fast: bool = True) -> Tensor:
        """[M, H]: the last hidden state at each of the layout's sources; the last layer's second half runs on no other row."""
        states, where = self.read(layout, fast=fast)
        return states[where]

    def read(self, layout: Layout, *, fast: bool = True) -> tuple[Tensor, Tensor | slice]:
        """The last hidden states at the layout's sources, each once, with some others up to a round number; and where the sources
        are among them."""
        if fast and self.stack:
            rows, where = torch.unique(layout.sources, return_inverse=True)
            states = self.stack.run(layout, self.keep, _filled(rows, len(layout.ids)), self._embeddings(layout))
            if states is not None:
                return states, where
        return torch.index_select(self.hidden(layout, fast=fast), 0, layout.sources), slice(None)

    def logits(self, layout: Layout, *, fast: bool = True) -> Tensor:
        """[N, V]: the model's own logits, for models whose head rule is not known."""
        return self._run(self.model, layout, fast, self._embeddings(layout)).logits[0]  # type: ignore[no-any-return]

    def _embeddings(self, layout: Layout) -> Tensor | None:
        """[N, H]: what is read in place of the layout's ids where there is noise; None elsewhere."""
        if not self.noise or not torch.is_grad_enabled():
            return None
        return noisy(self.model.get_input_embeddings()(layout.ids), layout.segments, self.noise)

    def _run(self, module: Any, layout: Layout, fast: bool, embeddings: Tensor | None = None) -> Any:
        given = {"input_ids": layout.ids[None]} if embeddings is None else {"inputs_embeds": embeddings[None]}
        types = {} if layout.types is None else {"token_type_ids": layout.types[None]}
        if not self.packs:
            if len(layout.segments) != 1:
                raise RuntimeError("this model cannot keep packed rows apart: give it one row per layout")
            return module(**given, use_cache=False, **types)
        plan = Plan(layout.segments, fast)
        positions = layout.positions[None] + self.first_position
        return module(**given, position_ids=positions, use_cache=False, plan=plan, **types)


def _filled(rows: Tensor, tokens: int) -> Tensor:
    """`rows` with some others of `tokens` behind them, up to a round number (see `encode.layout.make_layout`)."""
    count = min(-len(rows) % 32, tokens - len(rows))
    if not count:
        return rows
    others = torch.ones(tokens, dtype=torch.bool, device=rows.device)
    others[rows] = False
    return torch.cat((rows, torch.nonzero(others)[:count, 0]))


def make_backbone(model: Any) -> Backbone:
    """The backbone of a loaded causal model; switches it to our attention where that passes its comparison."""
    register()
    config = model.config
    head = model.get_output_embeddings()
    scale, softcap = _logit_rule(config)
    draft = Backbone(model, model.base_model, head, scale, softcap, packs=False, plain_logits=False)
    notes = []
    original = config._attn_implementation
    with torch.no_grad():
        plain = head is None or not _head_agrees(draft)
        if plain:
            notes.append(
                f"the logit rule of {config.model_type} is not known: the loss holds all logits of its targets"
            )
        packs = _packs(model)
    if not packs:
        model.set_attn_implementation(original)
        notes.append(f"{config.model_type} cannot keep packed rows apart: one row per micro-batch")
    backbone = Backbone(model, model.base_model, head, scale, softcap, packs, plain, tuple(notes), attention=original)
    return with_stack(backbone)


def checkpoint_layers(model: Any, on: bool) -> None:
    """Let a model's own layers keep only their input (Chen et al. 2016, arXiv 1604.06174), by transformers' switch.

    That switch works in training mode; only the layer itself is put into it, so that no dropout inside comes on.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if on and layers:
        _switch(model, "enable")({"use_reentrant": False})
    elif any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        _switch(model, "disable")()
    for layer in layers:
        layer.training = on


def _switch(model: Any, way: str) -> Any:
    """transformers' method, whose name was another one before 5.24."""
    return getattr(model, f"activation_checkpointing_{way}", None) or getattr(model, f"gradient_checkpointing_{way}")


B = TypeVar("B", bound=Backbone)


def with_stack(backbone: B) -> B:
    """The same with hand-written layers, if they are known for this model and give what its own forward gives."""
    stack = DecoderStack.of(backbone.model) or EncoderStack.of(backbone.model, backbone.first_position)
    if stack is None or not backbone.packs:
        return backbone
    ids = _probe_ids(backbone.model, PROBE_TOKENS)
    none = torch.empty(0, dtype=torch.int64, device=ids.device)
    positions = torch.arange(PROBE_TOKENS, device=ids.device)
    layout = Layout(ids, positions, (Segment(0, PROBE_TOKENS),), none, none, none.float(), PROBE_TOKENS)
    with torch.no_grad():
        ours = stack.run(layout, Keep.INPUT, None)
        agrees = ours is not None and (ours.is_meta or close(ours, backbone.hidden(layout, fast=False)))
    if not agrees:
        note = f"the layers of this {backbone.model.config.model_type} are not as expected: its own forward is used"
        return replace(backbone, notes=(*backbone.notes, note))
    return replace(backbone, stack=stack)


def _logit_rule(config: Any) -> tuple[float, float | None]:
    """(factor, soft cap) that the ForCausalLM class applies behind its head."""
    factor = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere; Falcon-H1
        factor *= getattr(config, name, None) or 1.0
    scaling = getattr(config, "logits_scaling", None)  # Granite divides, HyperCLOVA X multiplies
    if scaling:
        factor = factor * scaling if "hyperclova" in config.model_type else factor / scaling
    return float(factor), getattr(config, "final_logit_softcapping", None)


def _probe_ids(model: Any, count: int) -> Tensor:
    weight: Tensor = model.get_input_embeddings().weight
    vocabulary, device = weight.shape[0], weight.device
    return torch.arange(count, device=device) * 7919 % vocabulary  # a prime step spreads over the vocabulary


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two results differ by no more than rounding in their dtype explains; without values, whether they could."""
    if ours.is_meta:
        return ours.shape == theirs.shape
    error = (ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp_min(1e-12)
    return bool(error <= TOLERANCE.get(theirs.dtype, 2e-4))


def _head_agrees(backbone: Backbone) -> bool:
    ids = _probe_ids(backbone.model, PROBE_TOKENS)[None]
    if ids.is_meta:  # no values to compare
        return True
    theirs = backbone.model(input_ids=ids, use_cache=False).logits[0]
    hidden = backbone.body(input_ids=ids, use_cache=False).last_hidden_state[0]
    return close(backbone.head_rule().logits(hidden), theirs)


def _packs(model: Any) -> bool:
    """Whether two rows that share a prefix give the same hidden states packed as alone; leaves our attention switched on."""
    layers = set(getattr(model.config, "layer_types", None) or ())
    if layers - {"full_attention", "sliding_attention"}:
        return False
    prefix, one, two = (
        _probe_ids(model, 3 * PROBE_TOKENS)[i * PROBE_TOKENS : (i + 1) * PROBE_TOKENS] for i in range(3)
    )
    alone = [
        model.base_model(input_ids=torch.cat((prefix, row))[None], use_cache=False).last_hidden_state[0]
        for row in (one, two)
        if not row.is_meta
    ]
    model.set_attn_implementation(NAME)
    n = PROBE_TOKENS
    positions = torch.cat((torch.arange(n), torch.arange(n, 2 * n), torch.arange(n, 2 * n))).to(prefix.device)
    plan = Plan((Segment(0, n), Segment(n, 2 * n, 0), Segment(2 * n, 3 * n, 0)))
    try:
        packed = model.base_model(
            input_ids=torch.cat((prefix, one, two))[None], position_ids=positions[None], use_cache=False, plan=plan
        ).last_hidden_state[0]
    except (TypeError, RuntimeError, ValueError):  # an architecture that passes no plan to its attention
        return False
    return packed.is_meta or (close(packed[n : 2 * n], alone[0][n:]) and close(packed[2 * n :], alone[1][n:]))
