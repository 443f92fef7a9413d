"""The decoder layer of Llama and its relatives as one function with a hand-written backward.

transformers' own layer costs, beside its matrix products, some forty passes over the activations per direction, and autograd
saves the result of most. Here a layer saves its input, the heads' queries, keys, values and output, and the gated unit's two
inputs; norms and the gate are computed again in the backward, where they cost less than reading them from memory.
`DecoderStack.of` recognises a model by its type and the exact shape of its layers, and `engine/backbone.py` compares the
result with the model's own forward before it is used; every other model runs its own forward.

Per layer (Touvron et al. 2023, arXiv 2302.13971 §2.2): x + o(attention(rope(q), rope(k), v)) of norm(x), then
x + down(silu(gate) · up) of norm(x).
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from tutelage.encode.types import Layout
from tutelage.engine import packed
from tutelage.engine.plan import Plan
from tutelage.engine.product import Norm, Products, expressible, known, normed, products
from tutelage.engine.stack import Keep

TYPES = ("llama", "mistral", "qwen2", "qwen3")
ONE_WINDOW = ("mistral",)  # every layer's window is the config's; elsewhere a layer has its own
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Rotary:
    """cos and sin [N, 1, D], and the same times the attention scale for queries (RoPE, Su et al. 2021, arXiv 2104.09864)."""

    cos: Tensor
    sin: Tensor
    scaled_cos: Tensor
    scaled_sin: Tensor

    @staticmethod
    def of(cos: Tensor, sin: Tensor, scale: float) -> "Rotary":
        """From transformers' tables [1, N, D]."""
        cos, sin = cos[0, :, None], sin[0, :, None]
        return Rotary(cos, sin, cos * scale, sin * scale)

    def turn(self, x: Tensor, out: Tensor, scaled: bool) -> Tensor:
        """Rotate [..., N, heads, D] into `out`, of the same shape."""
        return self._turned(x, out, scaled, back=False)

    def turn_back(self, g: Tensor, out: Tensor, scaled: bool) -> Tensor:
        """The gradient of `turn`: rotate by the opposite angle."""
        return self._turned(g, out, scaled, back=True)

    def _turned(self, x: Tensor, out: Tensor, scaled: bool, back: bool) -> Tensor:
        cos, sin = (self.scaled_cos, self.scaled_sin) if scaled else (self.cos, self.sin)
        half, sign = x.shape[-1] // 2, -1 if back else 1
        first, second = sin[..., :half], sin[..., half:]
        if back:  # the transposed matrix
            first, second = second, first
        torch.mul(x, cos, out=out)
        out[..., :half].addcmul_(x[..., half:], first, value=-sign)
        out[..., half:].addcmul_(x[..., :half], second, value=sign)
        return out


@dataclass(frozen=True)
class Layer:
    """One layer in the engine's terms."""

    qkv: Products
    o: Products
    gate_up: Products
    down: Products
    first: Norm
    second: Norm
    head_norms: tuple[Norm, ...]  # of queries and keys, in Qwen3
    heads: int  # of keys
    groups: int  # query heads per key head
    dim: int
    window: int | None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that may train, in the order of the gradients."""
        products = [p for each in (self.qkv, self.o, self.gate_up, self.down) for p in each.parameters]
        return [*products, *(norm.weight for norm in (self.first, self.second, *self.head_norms))]


Kept = Any  # a Tensor; None before it is computed, and while it is to be computed again


@dataclass
class Acts:
    """A layer's activations on N tokens. The images are those of `Products`; rates are 1 / rms."""

    x: Tensor
    rate: Kept = None
    q: Kept = None  # [Hk, N, G, D], rotated and scaled
    k: Kept = None  # [Hk, N, D], rotated
    v: Kept = None  # [Hk, N, D]
    raw_q: Kept = None  # with norms on heads: [N, heads, D] before them
    raw_k: Kept = None
    out: Kept = None  # [N, Hk·G·D]
    qkv_images: Kept = None
    o_images: Kept = None
    middle: Kept = None  # between the two halves, on the picked rows
    middle_rate: Kept = None
    gate: Kept = None
    up: Kept = None
    gate_up_images: Kept = None
    down_images: Kept = None

    ATTENTION = ("rate", "q", "k", "v", "raw_q", "raw_k", "out", "qkv_images", "o_images", "middle", "middle_rate")
    GATED = ("gate", "up", "gate_up_images")

    def put_away(self, keep: Keep) -> list[Tensor | None]:
        """The tensors that stay in memory until the backward, in the order of the fields; None: computed again."""
        forgotten = (*(self.ATTENTION if keep < Keep.ATTENTION else ()), *(self.GATED if keep < Keep.ALL else ()))
        return [None if field.name in forgotten else getattr(self, field.name) for field in fields(self)]


def attention_half(layer: Layer, acts: Acts, plan: Plan, rotary: Rotary, pick: Tensor | None) -> Tensor:
    """The layer's middle, after filling in everything before it."""
    x, tokens, dim = acts.x, acts.x.shape[0], layer.dim
    n, acts.rate = layer.first.forward(x)
    (q, k, v), acts.qkv_images = layer.qkv.forward(n)
    if layer.head_norms:
        acts.raw_q, acts.raw_k = q.view(tokens, -1, dim), k.view(tokens, -1, dim)
        q, k = layer.head_norms[0].forward(acts.raw_q)[0], layer.head_norms[1].forward(acts.raw_k)[0]
    folded = q.view(tokens, layer.heads, layer.groups, dim).transpose(0, 1)
    acts.q = rotary.turn(folded, q.new_empty(folded.shape), scaled=True)
    acts.k = k.new_empty(layer.heads, tokens, dim)
    rotary.turn(k.view(tokens, layer.heads, dim), acts.k.transpose(0, 1), scaled=False)
    acts.v = v.view(tokens, -1, dim).transpose(0, 1).contiguous()
    acts.out = packed.forward(acts.q, acts.k, acts.v, plan, True, layer.window, None).view(tokens, -1)
    (middle,), acts.o_images = layer.o.forward(acts.out if pick is None else acts.out[pick])
    acts.middle = middle.add_(x if pick is None else x[pick])
    return middle


def gated_half(layer: Layer, acts: Acts, middle: Tensor) -> Tensor:
    """silu(gate) · up, after filling in everything between."""
    n, acts.middle_rate = layer.second.forward(middle)
    (acts.gate, acts.up), acts.gate_up_images = layer.gate_up.forward(n)
    return silu(acts.gate).mul_(acts.up)


class _Decode(torch.autograd.Function):
    """One layer: x [N, H] → [N, H], or [M, H] where only the rows `pick` are wanted of it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layer: Layer,
        plan: Plan,
        rotary: Rotary,
        pick: Tensor | None,
        keep: Keep,
        *parameters: Tensor,
    ) -> Tensor:
        acts = Acts(x)
        middle = attention_half(layer, acts, plan, rotary, pick)
        (y,), acts.down_images = layer.down.forward(gated_half(layer, acts, middle))
        ctx.layer, ctx.plan, ctx.rotary = layer, plan, rotary
        ctx.save_for_backward(pick, *acts.put_away(keep))
        return y.add_(middle)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layer, plan, rotary = ctx.layer, ctx.plan, ctx.rotary
        pick, *tensors = ctx.saved_tensors
        acts = Acts(*tensors)
        if acts.middle is None:
            attention_half(layer, acts, plan, rotary, pick)
        if acts.gate is None:
            gated_half(layer, acts, acts.middle)
        dmiddle, second = gated_backward(layer, gradients[0], acts)
        dx, first = attention_backward(layer, dmiddle, acts, plan, rotary, pick)
        products = [*first.products, *second.products]
        return (dx, *[None] * 5, *products, *first.norms[:1], *second.norms, *first.norms[1:])


@dataclass(frozen=True)
class Found:
    """Gradients of a half's parameters."""

    products: list[Tensor | None]
    norms: list[Tensor | None]


def gated_backward(layer: Layer, dy: Tensor, acts: Acts) -> tuple[Tensor, Found]:
    """The gradient in the middle of the layer's output gradient."""
    middle, rate, gate, up = acts.middle, acts.middle_rate, acts.gate, acts.up
    gated = silu(gate)
    dh, down = layer.down.backward([dy], gated * up, acts.down_images)
    dup = gated.mul_(dh)
    dgate = torch.ops.aten.silu_backward(dh.mul_(up), gate)
    dn, gate_up = layer.gate_up.backward([dgate, dup], layer.second.again(middle, rate), acts.gate_up_images)
    dmiddle, dweight = layer.second.backward(dn, middle, rate)
    return dmiddle.add_(dy), Found([*gate_up, *down], [dweight])


def attention_backward(
    layer: Layer, dmiddle: Tensor, acts: Acts, plan: Plan, rotary: Rotary, pick: Tensor | None
) -> tuple[Tensor, Found]:
    """The gradient in x of the gradient in the middle."""
    x, rate, q, k, v, out = acts.x, acts.rate, acts.q, acts.k, acts.v, acts.out
    tokens = x.shape[0]
    shape = (tokens, layer.heads, layer.groups, layer.dim)
    dout, o = layer.o.backward([dmiddle], out if pick is None else out[pick], acts.o_images)
    if pick is not None:
        dout, dmiddle = (t.new_zeros(tokens, t.shape[1]).index_copy_(0, pick, t) for t in (dout, dmiddle))
    dq, dk, dv = packed.backward(dout.view(shape), q, k, v, plan, True, layer.window, None)
    turned_q, turned_k = dq.new_empty(shape), dk.new_empty(tokens, layer.heads, layer.dim)
    rotary.turn_back(dq, turned_q.transpose(0, 1), scaled=True)
    rotary.turn_back(dk.transpose(0, 1), turned_k, scaled=False)
    turned, head_weights = [turned_q.view(tokens, -1, layer.dim), turned_k], []
    for index, (norm, raw) in enumerate(zip(layer.head_norms, (acts.raw_q, acts.raw_k))):
        turned[index], dweight = norm.backward(turned[index], raw, norm.forward(raw)[1])
        head_weights.append(dweight)
    gs = [g.reshape(tokens, -1) for g in (*turned, dv.transpose(0, 1))]
    dn, qkv = layer.qkv.backward(gs, layer.first.again(x, rate), acts.qkv_images)
    dx, dweight = layer.first.backward(dn, x, rate)
    return dx.add_(dmiddle), Found([*qkv, *o], [dweight, *head_weights])


@dataclass(frozen=True)
class DecoderStack:
    """The body of a recognised model."""

    body: Any

    @staticmethod
    def of(model: Any) -> "DecoderStack | None":
        """The stack of a model whose type is known and whose layers have exactly the expected parts."""
        body, config = model.base_model, model.config
        if config.model_type not in TYPES or config.hidden_act != "silu" or getattr(config, "attention_dropout", 0):
            return None
        if {name for name, _ in body.named_children()} != {"embed_tokens", "layers", "norm", "rotary_emb"}:
            return None
        return DecoderStack(body) if all(_expected(layer) for layer in body.layers) else None

    def on(self, body: Any) -> "DecoderStack":
        """The same layers over a copy of the body."""
        return replace(self, body=body)

    def knows_linear_layers(self) -> bool:
        """Whether every linear layer is of a kind that our layers compute, once a method has wrapped them."""
        return all(known(linear) for module in self.body.layers for linear in _linear(module))

    def run(self, layout: Layout, keep: Keep, pick: Tensor | None, embeddings: Tensor | None = None) -> Tensor | None:
        """[N, H] last hidden states, or those of the rows `pick` alone; None if a layer must run its own forward.

        `embeddings` [N, H] stand in for those of the layout's ids.
        """
        layers = [_layer(module) for module in self.body.layers]
        if any(layer is None for layer in layers):
            return None
        x = self.body.embed_tokens(layout.ids) if embeddings is None else embeddings
        cos, sin = self.body.rotary_emb(x[None], layout.positions[None])
        plan, known = Plan(layout.segments), [layer for layer in layers if layer is not None]
        rotary = Rotary.of(cos, sin, self.body.layers[0].self_attn.scaling)
        for index, layer in enumerate(known):
            rows = pick if index == len(known) - 1 else None
            x = _Decode.apply(x, layer, plan, rotary, rows, keep, *layer.parameters)  # type: ignore[no-untyped-call]
        return normed(x, Norm(self.body.norm.weight, self.body.norm.variance_epsilon))


def _expected(layer: nn.Module) -> bool:
    """Whether a layer has the parts of `Layer` and no other."""
    children = {name: dict(module.named_children()) for name, module in layer.named_children()}
    norms = set(children["self_attn"]) - set(ATTENTION) if "self_attn" in children else set()
    return (
        set(children) == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
        and set(children["mlp"]) == {*GATED, "act_fn"}
        and set(ATTENTION) <= set(children["self_attn"])
        and norms in (set(), {"q_norm", "k_norm"})
    )


def _linear(module: Any) -> list[nn.Module]:
    return [getattr(module.self_attn, name) for name in ATTENTION] + [getattr(module.mlp, name) for name in GATED]


def _layer(module: Any) -> Layer | None:
    attention, linear = module.self_attn, _linear(module)
    if not all(expressible(each) for each in linear):
        return None
    q, k, v, o, gate, up, down = linear
    norms = [module.input_layernorm, module.post_attention_layernorm]
    if hasattr(attention, "q_norm"):
        norms += [attention.q_norm, attention.k_norm]
    first, second, *heads = (Norm(norm.weight, norm.variance_epsilon) for norm in norms)
    return Layer(
        products(q, k, v), products(o), products(gate, up), products(down), first, second, tuple(heads),
        attention.config.num_key_value_heads, attention.num_key_value_groups, attention.head_dim, _window(attention),
    )  # fmt: skip


def _window(attention: Any) -> int | None:
    if attention.config.model_type in ONE_WINDOW:
        window: int | None = attention.config.sliding_window
        return window
    return getattr(attention, "sliding_window", None)
