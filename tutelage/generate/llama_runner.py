"""Llama-shaped models (Llama, SmolLM2, Mistral, Qwen2, Qwen3) over many sequences at once, without transformers' overhead.

The products run over the new tokens of all sequences together, attention over each sequence by itself, so that no
sequence is padded and none sees another. What a model computes is taken from its modules, and the result is compared
with the model's own logits before it is used; a model that differs is run by `PlainRunner`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, rms_norm, silu

from tutelage.engine.packed_linear import PackedLinear
from tutelage.generate.adapter_weights import FUSED, AdapterWeights, LowRank
from tutelage.generate.attend import Piece, Together, apart, causal_mask, side_by_side
from tutelage.generate.decode import context_limit
from tutelage.generate.keys_values import CacheShape, KeysValues, Pool, Pools
from tutelage.generate.runner import Chunk

PROBE = 24
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 8e-2}  # relative to the largest logit
PARTS = {part for parts in FUSED.values() for part in parts}
Group = tuple[str, int, int]  # the name of an adapter and the rows that it belongs to
Norm = Callable[[Tensor], Tensor]
Linear = Callable[[Tensor, Sequence[Group]], Tensor]
# (layer, queries, keys and values, scale) → what `attend.Piece.attend` says
Attend = Callable[[int, Tensor, Tensor, float], Tensor]
# (number, x [rows, hidden], cos, sin, attend, groups) → x behind the layer
Layer = Callable[[int, Tensor, Tensor, Tensor, Attend, Sequence[Group]], Tensor]


def plain_norm(module: Any) -> Norm:
    """The module's RMS norm."""
    weight, eps = module.weight.detach(), module.variance_epsilon
    return lambda x: rms_norm(x, weight.shape, weight, eps)


def mirrored_norm(module: Any) -> Norm:
    """The same from torch's one kernel for layer norms: of x beside -x the mean is 0 and the variance the mean square.

    4.6 instead of 9.1 µs for a row of 576, and there are 61 in a token of SmolLM2-135M.
    """
    weight, eps = torch.cat((module.weight.detach(),) * 2), module.variance_epsilon
    shape, width = weight.shape, len(weight) // 2
    cat, norm = torch.cat, torch.layer_norm

    def mirrored(x: Tensor) -> Tensor:
        return norm(cat((x, -x), 1), shape, weight, None, eps).narrow(1, 0, width)

    return mirrored


class Product:
    """A frozen layer and what each adapter adds to it: their `down` matrices are more rows of the one weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None, added: Mapping[str, LowRank], fast: bool) -> None:
        self.out_features = weight.shape[0]
        downs = [each.down for each in added.values()]
        if bias is not None:
            bias = torch.cat((bias, bias.new_zeros(sum(map(len, downs)))))
        self.linear = PackedLinear(torch.cat((weight, *downs)), bias, fast=fast)
        self.added: dict[str, tuple[int, int, PackedLinear, Tensor]] = {}
        start = self.out_features
        for name, each in added.items():
            up = PackedLinear(each.up, fast=fast)
            self.added[name] = start, start + len(each.down), up, each.up.t().float().contiguous()
            start += len(each.down)

    def __call__(self, x: Tensor, groups: Sequence[Group]) -> Tensor:
        """[rows, in] → [rows, out], the rows of each group with its adapter."""
        both = self.linear(x)
        y = both[:, : self.out_features]
        for name, start, stop in groups:
            if name in self.added:
                first, last, up, exact = self.added[name]
                low = both[start:stop, first:last]
                more = up(low) if stop - start > 1 else low.float() @ exact  # 5 instead of 15 µs for one row
                y[start:stop].add_(more)
        return y


class Widened:
    """A frozen layer and the one adapter there is, in one product: [W, up] of x beside what `down` makes of it.

    Of SmolLM2-135M with rank 16, one row, a block's four products take 58 instead of 88 µs beyond the frozen weights' own 200.
    With several adapters every row would read the `up` of all of them, which `Product` reads where they are asked for.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, added: LowRank, fast: bool) -> None:
        self.linear = PackedLinear(torch.cat((weight, added.up), dim=1), bias, fast=fast)
        self.down = added.down.t().float().contiguous()

    def __call__(self, x: Tensor, groups: Sequence[Group]) -> Tensor:
        """As `Product`; beside the rows of the base stand zeros."""
        if len(groups) == 1 and groups[0][2] - groups[0][1] == x.shape[0]:
            low = (x.float() @ self.down).to(x.dtype)
        else:
            low = x.new_zeros(len(x), self.down.shape[1])
            for _, start, stop in groups:
                low[start:stop] = x[start:stop].float() @ self.down
        return self.linear(torch.cat((x, low), dim=1))


@dataclass(frozen=True)
class Shape:
    """What all layers have in common."""

    heads: int
    kv_heads: int
    head: int
    scale: float

    @property
    def turned(self) -> int:
        """Heads that positions rotate: those of queries and of keys."""
        return self.heads + self.kv_heads


class LlamaRunner:
    """Runs a model that `take_apart` found to be Llama-shaped."""

    def __init__(self, model: Any, adapters: Mapping[str, AdapterWeights] | None = None, *, fast: bool = True) -> None:
        config, adapters = model.config, adapters or {}
        self.config = config
        self.context = context_limit(model)
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        body = model.model
        self.embedding = body.embed_tokens.weight.detach()
        self.dtype = self.embedding.dtype
        self.shape = Shape(config.num_attention_heads, config.num_key_value_heads, head, head**-0.5)
        self.fast = fast
        self.norm = mirrored_norm(body.norm) if fast else plain_norm(body.norm)
        rotating = getattr(config, "no_rope_layers", None) or [1] * len(body.layers)  # SmolLM3: 0 where it does not
        self.layers: list[Layer] = []
        for i, layer in enumerate(body.layers):
            added = {name: adapter.blocks[i] for name, adapter in adapters.items()}
            self.layers.append(make_layer(layer, self.shape, bool(rotating[i]), added, fast))
            body.layers[i] = nn.Identity()  # its weights live there now: two copies are never held
        self.output = PackedLinear(model.lm_head.weight.detach(), model.lm_head.bias, fast=fast)
        self.rotary = body.rotary_emb
        self.cos, self.sin = self._tables(256)
        self.pools = Pools(CacheShape(len(self.layers), self.shape.kv_heads, head, self.dtype))

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [length, 1, head]; sin with the sign that makes rotating a roll."""
        with torch.inference_mode():
            cos, sin = self.rotary(torch.empty(0, dtype=self.dtype), torch.arange(length)[None])
        sign = torch.ones(self.shape.head, dtype=self.dtype)
        sign[: self.shape.head // 2] = -1
        return cos[0][:, None].contiguous(), (sin[0] * sign)[:, None].contiguous()

    def _rotation(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, heads + 2 x key-value heads, head]; values stay as they are, so they need not be set apart."""
        shape = self.shape
        cos = torch.ones(len(places), shape.turned + shape.kv_heads, shape.head, dtype=self.dtype)
        sin = torch.zeros_like(cos)
        cos[:, : shape.turned], sin[:, : shape.turned] = self.cos[places], self.sin[places]
        return cos, sin

    def begin(self, older: KeysValues | None, shared: int) -> KeysValues:
        state = KeysValues(self.pools)
        if older is not None and shared:
            state.take(older, shared)
        return state

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        for chunk in chunks:
            chunk.state.reserve(len(chunk.state.ids) + len(chunk.ids))
        order = sorted(range(len(chunks)), key=lambda i: side_by_side(chunks[i], self.fast))
        ids, places, spans, groups, parts = self._lay_out([chunks[i] for i in order])
        x = embedding(ids, self.embedding)
        cos, sin = self._rotation(places)
        attend = parts[0].attend if len(parts) == 1 else apart(parts)
        for number, layer in enumerate(self.layers):
            x = layer(number, x, cos, sin, attend, groups)
        for chunk in chunks:
            chunk.state.ids.extend(chunk.ids)
        last = x if len(x) == len(spans) else x[[stop - 1 for _, stop in spans]]
        logits = self.output(self.norm(last)).float()
        if order == sorted(order):
            return logits
        return logits[torch.tensor(order).argsort()]

    def _lay_out(
        self, chunks: Sequence[Chunk]
    ) -> tuple[Tensor, Tensor, list[tuple[int, int]], list[Group], list[Piece | Together]]:
        """All new ids on one axis, their positions, each chunk's rows, the rows of each adapter, and who attends together."""
        ids: list[int] = []
        places: list[int] = []
        spans: list[tuple[int, int]] = []
        groups: list[Group] = []
        parts: list[Piece | Together] = []
        single: dict[Pool, list[tuple[int, KeysValues]]] = {}
        for chunk in chunks:
            start, read = len(ids), len(chunk.state.ids)
            ids += chunk.ids
            places += range(read, read + len(chunk.ids))
            spans.append((start, len(ids)))
            if chunk.adapter is not None:
                first = groups.pop()[1] if groups and groups[-1][0] == chunk.adapter else start
                groups.append((chunk.adapter, first, len(ids)))
            if self.fast and len(chunk.ids) == 1:
                single.setdefault(chunk.state.pool, []).append((start, chunk.state))
            else:
                parts.append(Piece(chunk.state, start, len(ids), causal_mask(len(chunk.ids), read, self.dtype)))
        parts += [Together(pool, members, len(ids), self.dtype) for pool, members in single.items()]
        longest = max(places) + 1
        if longest > len(self.cos):
            self.cos, self.sin = self._tables(max(longest, 2 * len(self.cos)))
        return torch.tensor(ids), torch.tensor(places), spans, groups, parts


def make_layer(
    layer: Any, shape: Shape, rotates: bool, added: Mapping[str, Mapping[str, LowRank]], fast: bool
) -> Layer:
    """What a layer computes, from its weights.

    One function with what it needs at hand: the interpreter's work runs cold between two products, which stream their weights
    through the caches. Where norms, attention and MLP were methods of objects, a token of SmolLM2-135M took 10.1 to 10.5 ms
    instead of 9.5 to 9.9.
    """
    qkv, o, gate_up, down = (_linear(layer, name, parts, added, fast) for name, parts in FUSED.items())
    norm = mirrored_norm if fast else plain_norm
    before_attention, before_mlp = norm(layer.input_layernorm), norm(layer.post_attention_layernorm)
    own = [getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm")]  # Qwen3's
    q_norm, k_norm = (plain_norm(module) if module is not None else None for module in own)
    heads, kv_heads, head, turned, scale = shape.heads, shape.kv_heads, shape.head, shape.turned, shape.scale
    all_heads, half = turned + kv_heads, head // 2
    cat, addcmul = torch.cat, torch.addcmul

    def run(number: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, groups: Sequence[Group]) -> Tensor:
        heads_of = qkv(before_attention(x), groups).view(-1, all_heads, head)
        if q_norm is not None and k_norm is not None:
            q, k, v = torch.split(heads_of, [heads, kv_heads, kv_heads], 1)
            heads_of = cat((q_norm(q), k_norm(k), v), 1)
        if rotates:
            heads_of = addcmul(heads_of * cos, heads_of.roll(half, 2), sin)
        kv = heads_of.narrow(1, heads, 2 * kv_heads).view(-1, 2, kv_heads, head)
        x = x + o(attend(number, heads_of.narrow(1, 0, heads), kv, scale), groups)
        gate, up = gate_up(before_mlp(x), groups).chunk(2, 1)
        return x + down(silu(gate).mul_(up), groups)

    return run


def _linear(
    layer: Any, name: str, parts: Sequence[str], added: Mapping[str, Mapping[str, LowRank]], fast: bool
) -> Linear:  # fmt: skip
    modules = [layer.get_submodule(part) for part in parts]
    weight = torch.cat([module.weight.detach() for module in modules])
    bias = None
    if any(module.bias is not None for module in modules):
        zeros = [torch.zeros(module.out_features, dtype=weight.dtype) for module in modules]
        bias = torch.cat([zero if m.bias is None else m.bias.detach() for m, zero in zip(modules, zeros)])
    here = {adapter: parts[name] for adapter, parts in added.items() if name in parts}
    if not here:
        return PackedLinear(weight, bias, fast=fast)
    if len(added) == 1:
        (only,) = here.values()
        return Widened(weight, bias, only, fast)
    return Product(weight, bias, here, fast)


def is_llama_shaped(model: Any) -> bool:
    """Whether the model's modules are those that `LlamaRunner` computes; `take_apart` then compares the results."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    layers = getattr(getattr(model, "model", None), "layers", None)
    if layers is None or kinds != {"full_attention"} or model.device.type != "cpu":
        return False
    if getattr(config, "sliding_window", None) is not None and not hasattr(config, "layer_types"):
        return False
    wanted = PARTS | {"input_layernorm", "post_attention_layernorm", "self_attn", "mlp", "mlp.act_fn"}
    names = {name for name, _ in layers[0].named_modules() if name}
    extra = names - wanted - {"self_attn.q_norm", "self_attn.k_norm"}
    return wanted <= names and not extra and hasattr(model.model, "rotary_emb") and model.dtype in TOLERANCE


def sizes_of(model: Any) -> dict[str, int]:
    """The output sizes of a block's linear layers, by name."""
    return {part: model.model.layers[0].get_submodule(part).out_features for part in PARTS}


def take_apart(
    model: Any, adapters: Mapping[str, AdapterWeights] | None = None, *, fast: bool = True
) -> LlamaRunner | None:
    """The model as a LlamaRunner, or None where it is none or computes something else. The model is used up either way."""
    if not is_llama_shaped(model):
        return None
    ids = [int(i) for i in torch.arange(PROBE) * 7919 % model.get_input_embeddings().weight.shape[0]]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0].float()
    runner = LlamaRunner(model, adapters, fast=fast)
    state = runner.begin(None, 0)
    runner.forward([Chunk(state, ids[:9])])
    got = runner.forward([Chunk(state, ids[9:])])
    state.drop()
    error = (got - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return runner if bool(error <= TOLERANCE[runner.dtype]) else None
