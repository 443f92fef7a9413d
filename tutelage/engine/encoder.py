"""The encoder layer of BERT and its relatives as one function with a hand-written backward.

As `decoder.py` does for Llama's: what a layer saves is its input, the heads' queries, keys, values, output and short rows'
weights, the two sums before its norms and its activation's input and result. `EncoderStack.of` recognises a model by its type and
the exact parts of its layers, and `engine/backbone.py` compares the result with the model's own forward before it is used.

Per layer (Devlin et al. 2018, arXiv 1810.04805 §3; Vaswani et al. 2017, arXiv 1706.03762 §3.1):
n = norm(x + o(attention(q, k, v))) of x, then norm(n + down(act(up(n)))).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from tutelage.encode.types import Layout
from tutelage.engine import grouped, picked
from tutelage.engine.grouped import Grouped
from tutelage.engine.noise import drawn_, drop_, dropped
from tutelage.engine.product import Products, expressible, known, products
from tutelage.engine.stack import Keep


@dataclass(frozen=True)
class Names:
    """Where a family's layers are, and the parts of each: q, k, v, o, up, down, and the two norms."""

    layers: str
    linear: tuple[str, str, str, str, str, str]
    norms: tuple[str, str]
    drops: tuple[bool, bool] = (True, True)  # whether dropout is on what attention adds, and on what the rest does


BERT = Names(
    "encoder.layer",
    ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
     "intermediate.dense", "output.dense"),
    ("attention.output.LayerNorm", "output.LayerNorm"),
)  # fmt: skip
DISTILBERT = Names(
    "transformer.layer",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"),
    ("sa_layer_norm", "output_layer_norm"),
    (False, True),
)
FAMILIES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), BERT), "distilbert": DISTILBERT,
}  # fmt: skip
APPROXIMATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


@dataclass(frozen=True)
class LayerNorm:
    """Ba et al. 2016, arXiv 1607.06450, over the last dimension."""

    module: Any

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The result, the mean and 1 / the standard deviation [N, 1]."""
        m = self.module
        return torch.native_layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps)

    def backward(self, g: Tensor, x: Tensor, mean: Tensor, rate: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """The gradient in x, and those of weight and bias (None if frozen)."""
        m = self.module
        wanted = [True, m.weight.requires_grad, m.bias.requires_grad]
        dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
            g, x, m.normalized_shape, mean, rate, m.weight, m.bias, wanted
        )
        return dx, [dweight, dbias]


@dataclass(frozen=True)
class Layer:
    """One layer in the engine's terms."""

    qkv: Products
    o: Products
    up: Products
    down: Products
    first: LayerNorm
    second: LayerNorm
    heads: int
    approximate: str  # of GELU
    drops: tuple[float, float, float]  # the share of dropout on attention's weights, and on what its two halves add

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that may train, in the order of the gradients."""
        products = [p for each in (self.qkv, self.o, self.up, self.down) for p in each.parameters]
        return [*products, *(p for norm in (self.first, self.second) for p in (norm.module.weight, norm.module.bias))]


Kept = Any  # a Tensor; None before it is computed, and while it is to be computed again


@dataclass
class Acts:
    """A layer's activations on N tokens. The images are those of `Products`; means and rates are the norms'."""

    x: Tensor
    q: Kept = None  # [places, D] as `grouped` reads them; [heads, M, D], scaled, where they are few
    k: Kept = None  # [places, D]; [heads, N, D] where queries are few
    v: Kept = None
    out: Kept = None  # [N, heads·D], or [M, heads·D]
    qkv_images: Kept = None  # of keys and values only, where queries are few
    q_images: Kept = None
    o_images: Kept = None
    middle: Kept = None  # the first norm's input, on the picked rows, as all that follows
    middle_mean: Kept = None
    middle_rate: Kept = None
    normed: Kept = None  # its result
    up: Kept = None
    act: Kept = None
    up_images: Kept = None
    down_images: Kept = None
    end: Kept = None  # the second norm's input
    end_mean: Kept = None
    end_rate: Kept = None
    o_mask: Kept = None  # of dropout
    down_mask: Kept = None
    masks: list[Tensor] = field(default_factory=list)  # of dropout of attention's weights
    weights: list[Tensor] = field(default_factory=list)  # of short segments' softmax, as `grouped` keeps them

    def put_away(self, keep: Keep) -> list[Tensor | None]:
        """The tensors that stay in memory until the backward, in the order of the fields; None: computed again."""
        again = ("normed", "up", "act")
        drawn = ["x", "o_mask", "down_mask"]  # draws are never made again
        kept = {Keep.INPUT: drawn, Keep.ATTENTION: [n for n in TENSORS if n not in again], Keep.ALL: TENSORS}[keep]
        weights = self.weights if keep is Keep.ALL else []
        return [*(getattr(self, name) if name in kept else None for name in TENSORS), *self.masks, *weights]

    @staticmethod
    def taken_out(tensors: Sequence[Kept], masks: int) -> "Acts":
        """Of what was put away, with so many masks."""
        count = len(TENSORS)
        acts = Acts(*tensors[:count])
        acts.masks, acts.weights = list(tensors[count : count + masks]), list(tensors[count + masks :])
        return acts


TENSORS = [each.name for each in fields(Acts) if each.name not in ("masks", "weights")]


def attention_half(layer: Layer, acts: Acts, them: Grouped, pick: Tensor | None) -> Tensor:
    """The first norm's result, after filling in everything up to it."""
    x, tokens = acts.x, acts.x.shape[0]
    if picked.few(pick, tokens):
        out = few_queries(layer, acts, them, pick)
    else:
        qkv, acts.qkv_images = layer.qkv.forward(x)
        acts.q, acts.k, acts.v = (them.gather(t) for t in qkv)
        acts.masks = acts.masks or them.masks(layer.drops[0], x.dtype)
        acts.out = them.spread(grouped.forward(acts.q, acts.k, acts.v, them, acts.weights, acts.masks))
        out = acts.out if pick is None else acts.out[pick]
    (middle,), acts.o_images = layer.o.forward(out)
    acts.o_mask = drop_(middle, acts.o_mask, layer.drops[1])
    acts.middle = middle.add_(x if pick is None else x[pick])
    n, acts.middle_mean, acts.middle_rate = layer.first.forward(middle)
    acts.normed = n
    return n


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[N, heads·D] → [heads, N, D], a view."""
    return x.view(x.shape[0], heads, -1).transpose(0, 1)


def _by_token(x: Tensor) -> Tensor:
    """[heads, N, D] → [N, heads·D]."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def few_queries(layer: Layer, acts: Acts, them: Grouped, pick: Tensor) -> Tensor:
    """What attention gives the rows `pick` alone, after filling in everything before it."""
    (q,), acts.q_images = layer.qkv.only(0).forward(acts.x[pick])
    (k, v), acts.qkv_images = layer.qkv.only(1, 2).forward(acts.x)
    k, v = (_by_head(t, layer.heads).contiguous() for t in (k, v))
    acts.q = _by_head(q.mul_((q.shape[1] // layer.heads) ** -0.5), layer.heads).contiguous()
    p = picked.weights(acts.q, k, them.segments, pick)
    if layer.drops[0] and not acts.masks:
        acts.masks.append(drawn_(torch.empty_like(p), layer.drops[0]))
    out = _by_token(torch.bmm(dropped(p, next(iter(acts.masks), None)), v))
    acts.k, acts.v, acts.out = k, v, out
    acts.weights.append(p)
    return out


def activated(layer: Layer, acts: Acts, n: Tensor) -> None:
    """Fill in the activation, and what it is of."""
    (acts.up,), acts.up_images = layer.up.forward(n)
    acts.act = gelu(acts.up, approximate=layer.approximate)


def outer_half(layer: Layer, acts: Acts, n: Tensor) -> Tensor:
    """The layer's result, after filling in everything between."""
    activated(layer, acts, n)
    (end,), acts.down_images = layer.down.forward(acts.act)
    acts.down_mask = drop_(end, acts.down_mask, layer.drops[2])
    y, acts.end_mean, acts.end_rate = layer.second.forward(end.add_(n))
    acts.end = end
    return y


class _Encode(torch.autograd.Function):
    """One layer: x [N, H] → [N, H], or [M, H] where only the rows `pick` are wanted of it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: Layer, them: Grouped, pick: Tensor | None, keep: Keep, *parameters: Tensor
    ) -> Tensor:
        acts = Acts(x)
        y = outer_half(layer, acts, attention_half(layer, acts, them, pick))
        ctx.layer, ctx.them, ctx.masks = layer, them, len(acts.masks)
        ctx.save_for_backward(pick, *acts.put_away(keep))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layer, them = ctx.layer, ctx.them
        pick, *tensors = ctx.saved_tensors
        acts = Acts.taken_out(tensors, ctx.masks)
        if acts.middle is None:
            outer_half(layer, acts, attention_half(layer, acts, them, pick))
        if acts.up is None:
            acts.normed = layer.first.forward(acts.middle)[0]
            activated(layer, acts, acts.normed)
        dn, outer, second = outer_backward(layer, gradients[0], acts)
        dmiddle, first = layer.first.backward(dn, acts.middle, acts.middle_mean, acts.middle_rate)
        dx, inner = attention_backward(layer, dmiddle, acts, them, pick)
        return (dx, *[None] * 4, *inner, *outer, *first, *second)


Gradients = list[Tensor | None]


def outer_backward(layer: Layer, dy: Tensor, acts: Acts) -> tuple[Tensor, Gradients, Gradients]:
    """The gradients in n, of the two products, and of the second norm."""
    dend, norm = layer.second.backward(dy, acts.end, acts.end_mean, acts.end_rate)
    dact, down = layer.down.backward([dropped(dend, acts.down_mask)], acts.act, acts.down_images)
    dup = torch.ops.aten.gelu_backward(dact, acts.up, approximate=layer.approximate)
    dn, up = layer.up.backward([dup], acts.normed, acts.up_images)
    return dn.add_(dend), [*up, *down], norm


def attention_backward(
    layer: Layer, dmiddle: Tensor, acts: Acts, them: Grouped, pick: Tensor | None
) -> tuple[Tensor, Gradients]:
    """The gradient in x of the gradient in the middle, and those of the products."""
    q, k, v, out = acts.q, acts.k, acts.v, acts.out
    dadded = dropped(dmiddle, acts.o_mask)
    tokens = acts.x.shape[0]
    if picked.few(pick, tokens):
        dout, o = layer.o.backward([dadded], out, acts.o_images)
        p = acts.weights[0] if acts.weights else picked.weights(q, k, them.segments, pick)
        dheads = _by_head(dout, layer.heads).contiguous()
        dq, dk, dv = (_by_token(g) for g in picked.backward(dheads, q, k, v, p, next(iter(acts.masks), None)))
        dx, kv = layer.qkv.only(1, 2).backward([dk, dv], acts.x, acts.qkv_images)
        dpicked, own = layer.qkv.only(0).backward([dq.mul_(q.shape[-1] ** -0.5)], acts.x[pick], acts.q_images)
        return dx.index_add_(0, pick, dpicked.add_(dmiddle)), [*own, *kv, *o]
    dout, o = layer.o.backward([dadded], out if pick is None else out[pick], acts.o_images)
    if pick is not None:
        dout, dmiddle = (t.new_zeros(tokens, t.shape[1]).index_copy_(0, pick, t) for t in (dout, dmiddle))
    found = grouped.backward(them.gather(dout), q, k, v, them, acts.weights, acts.masks)
    dx, qkv = layer.qkv.backward([them.spread(g) for g in found], acts.x, acts.qkv_images)
    return dx.add_(dmiddle), [*qkv, *o]


@dataclass(frozen=True)
class EncoderStack:
    """The body of a recognised model. Positions count from `first_position`.

    `dropout` is the share of hidden values that are dropped wherever gradients are computed: of the embeddings, and of what
    each half of a layer adds (`hidden_dropout_prob`); `attention_dropout` that of attention's weights
    (`attention_probs_dropout_prob`).
    """

    body: Any
    names: Names
    first_position: int
    dropout: float = 0.0
    attention_dropout: float = 0.0

    @staticmethod
    def of(model: Any, first_position: int = 0) -> "EncoderStack | None":
        """The stack of a model whose type is known and whose layers have exactly the expected parts."""
        body, config = model.base_model, model.config
        names = FAMILIES.get(config.model_type)
        if names is None or getattr(config, "is_decoder", False) or _activation(config) not in APPROXIMATIONS:
            return None
        stack = EncoderStack(body, names, first_position)
        expected = {*names.linear, *names.norms}
        for layer in stack.layers:
            if {name for name, m in layer.named_modules() if list(m.parameters(recurse=False))} != expected:
                return None
        return stack

    @property
    def layers(self) -> Any:
        """The model's layers."""
        return self.body.get_submodule(self.names.layers)

    def on(self, body: Any) -> "EncoderStack":
        """The same layers over a copy of the body."""
        return replace(self, body=body)

    def knows_linear_layers(self) -> bool:
        """Whether every linear layer is of a kind that our layers compute, once a method has wrapped them."""
        return all(known(layer.get_submodule(name)) for layer in self.layers for name in self.names.linear)

    def run(self, layout: Layout, keep: Keep, pick: Tensor | None, embeddings: Tensor | None = None) -> Tensor | None:
        """[N, H] last hidden states, or those of the rows `pick` alone; None if a layer must run its own forward.

        `embeddings` [N, H] stand in for those of the layout's ids.
        """
        share, weights = (self.dropout, self.attention_dropout) if torch.is_grad_enabled() else (0.0, 0.0)
        drops = weights, share * self.names.drops[0], share * self.names.drops[1]
        layers = [layer for layer in (self._layer(module, drops) for module in self.layers) if layer is not None]
        if len(layers) < len(self.layers):
            return None
        x = self._embedded(layout, embeddings, share)
        them = Grouped.of(layout.segments, self.body.config.num_attention_heads, x.dtype, x.device)
        for index, layer in enumerate(layers):
            rows = pick if index == len(layers) - 1 else None
            x = _Encode.apply(x, layer, them, rows, keep, *layer.parameters)  # type: ignore[no-untyped-call]
        return x

    def _embedded(self, layout: Layout, embeddings: Tensor | None, share: float) -> Tensor:
        positions = layout.positions[None] + self.first_position
        types = {} if layout.types is None else {"token_type_ids": layout.types[None]}
        ids, given = (layout.ids[None], None) if embeddings is None else (None, embeddings[None])
        x: Tensor = self.body.embeddings(input_ids=ids, inputs_embeds=given, position_ids=positions, **types)[0]
        x = x * drawn_(torch.empty_like(x), share) if share else x
        return self.body.embeddings_project(x) if hasattr(self.body, "embeddings_project") else x  # ELECTRA

    def _layer(self, module: Any, drops: tuple[float, float, float]) -> Layer | None:
        linear = attrgetter(*self.names.linear)(module)
        if not all(expressible(each) for each in linear):
            return None
        q, k, v, o, up, down = linear
        first, second = (LayerNorm(each) for each in attrgetter(*self.names.norms)(module))
        config = self.body.config
        return Layer(
            products(q, k, v), products(o), products(up), products(down), first, second,
            config.num_attention_heads, APPROXIMATIONS[_activation(config)], drops,
        )  # fmt: skip


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", ""))
