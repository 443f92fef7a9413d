"""Llama-shaped models (Llama, SmolLM2, Mistral, Qwen2, Qwen3) over many sequences at once, without transformers' overhead.

The products run over the new tokens of all sequences together, attention over each sequence by itself, so that no
sequence is padded and none sees another. What a model computes is taken from its modules, and the result is compared
with the model's own logits before it is used; a model that differs is run by `PlainRunner`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm, rms_norm, scaled_dot_product_attention, silu

from tutelage.engine.packed_linear import PackedLinear
from tutelage.generate.adapter_weights import FUSED, AdapterWeights, LowRank
from tutelage.generate.decode import context_limit
from tutelage.generate.keys_values import CacheShape, KeysValues
from tutelage.generate.runner import Chunk

PROBE = 24
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 8e-2}  # relative to the largest logit
PARTS = {part for parts in FUSED.values() for part in parts}
SHORT = 96  # keys; beyond them the fused attention of one query takes longer than two products (at 500: 205 and 69 µs)
Group = tuple[str, int, int]  # the name of an adapter and the rows that it belongs to


@dataclass(frozen=True)
class Norm:
    """An RMS norm."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class Mirrored:
    """The same from torch's one kernel for layer norms: of x beside -x the mean is 0 and the variance the mean square.

    4.6 instead of 9.1 µs for a row of 576, and there are 61 in a token of SmolLM2-135M.
    """

    def __init__(self, norm: Norm) -> None:
        self.weight, self.eps = torch.cat((norm.weight, norm.weight)), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        both = layer_norm(torch.cat((x, -x), dim=-1), self.weight.shape, self.weight, None, self.eps)
        return both[..., : x.shape[-1]]


class Product:
    """A frozen layer and what each adapter adds to it: their `down` matrices are more rows of the one weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None, added: Mapping[str, LowRank], fast: bool) -> None:
        self.out_features = weight.shape[0]
        downs = [each.down for each in added.values()]
        if bias is not None and downs:
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
                y[start:stop] += up(low) if stop - start > 1 else low.float() @ exact  # 5 instead of 15 µs for one row
        return y


@dataclass(frozen=True)
class Block:
    """One layer. `linear` holds the fused products by name; `q_norm` and `k_norm` are Qwen3's."""

    linear: dict[str, Product]
    before_attention: Norm | Mirrored
    before_mlp: Norm | Mirrored
    q_norm: Norm | None
    k_norm: Norm | None
    rotates: bool


class LlamaRunner:
    """Runs a model that `take_apart` found to be Llama-shaped."""

    def __init__(self, model: Any, adapters: Mapping[str, AdapterWeights] | None = None, *, fast: bool = True) -> None:
        config, adapters = model.config, adapters or {}
        self.config = config
        self.context = context_limit(model)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        body = model.model
        self.embedding = body.embed_tokens.weight.detach()
        self.dtype = self.embedding.dtype
        self.fast = fast
        self.norm = _norm(body.norm, fast)
        rotating = getattr(config, "no_rope_layers", None) or [1] * len(body.layers)  # SmolLM3: 0 where it does not
        self.blocks = []
        for i, layer in enumerate(body.layers):
            added = {name: adapter.blocks[i] for name, adapter in adapters.items()}
            self.blocks.append(_block(layer, bool(rotating[i]), added, fast))
            body.layers[i] = nn.Identity()  # its weights live in the block now: two copies are never held
        self.output = PackedLinear(model.lm_head.weight.detach(), model.lm_head.bias, fast=fast)
        self.scale = self.head**-0.5
        self.rotary = body.rotary_emb
        self.cos, self.sin = self._tables(256)
        self.shape = CacheShape(len(self.blocks), self.kv_heads, self.head, self.dtype)

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [length, 1, head]; sin with the sign that makes rotating a roll."""
        with torch.inference_mode():
            cos, sin = self.rotary(torch.empty(0, dtype=self.dtype), torch.arange(length)[None])
        sign = torch.ones(self.head, dtype=self.dtype)
        sign[: self.head // 2] = -1
        return cos[0][:, None].contiguous(), (sin[0] * sign)[:, None].contiguous()

    def begin(self, older: KeysValues | None, shared: int) -> KeysValues:
        state = KeysValues(self.shape)
        if older is not None and shared:
            state.take(older, shared)
        return state

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        order = sorted(range(len(chunks)), key=lambda i: chunks[i].adapter or "")
        ordered = [chunks[i] for i in order]
        ids, places, spans, groups = self._lay_out(ordered)
        x = embedding(ids, self.embedding)
        cos, sin = self.cos[places], self.sin[places]
        masks = [_mask(len(chunk.ids), len(chunk.state.ids), self.dtype) for chunk in ordered]
        for number, block in enumerate(self.blocks):
            normed = block.before_attention(x)
            x = x + self._attention(number, block, normed, cos, sin, list(zip(ordered, spans, masks)), groups)
            x = x + _mlp(block, block.before_mlp(x), groups)
        for chunk in ordered:
            chunk.state.ids.extend(chunk.ids)
        logits = self.output(self.norm(x[[stop - 1 for _, stop in spans]])).float()
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        return logits[back]

    def _lay_out(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor, list[tuple[int, int]], list[Group]]:
        """All new ids on one axis, their positions, each chunk's rows, and the rows of each adapter."""
        ids: list[int] = []
        places: list[int] = []
        spans: list[tuple[int, int]] = []
        groups: list[Group] = []
        for chunk in chunks:
            start, read = len(ids), len(chunk.state.ids)
            ids += chunk.ids
            places += range(read, read + len(chunk.ids))
            spans.append((start, len(ids)))
            chunk.state.reserve(read + len(chunk.ids))
            if chunk.adapter is not None:
                first = groups.pop()[1] if groups and groups[-1][0] == chunk.adapter else start
                groups.append((chunk.adapter, first, len(ids)))
        longest = max(places) + 1
        if longest > len(self.cos):
            self.cos, self.sin = self._tables(max(longest, 2 * len(self.cos)))
        return torch.tensor(ids), torch.tensor(places), spans, groups

    def _attention(
        self, number: int, block: Block, x: Tensor, cos: Tensor, sin: Tensor,
        parts: list[tuple[Chunk, tuple[int, int], Tensor | None]], groups: list[Group],
    ) -> Tensor:  # fmt: skip
        rows, both = x.shape[0], self.heads + self.kv_heads
        qkv = block.linear["qkv"](x, groups).view(rows, both + self.kv_heads, self.head)
        qk, v = qkv[:, :both], qkv[:, both:]
        if block.q_norm is not None and block.k_norm is not None:
            qk = torch.cat((block.q_norm(qk[:, : self.heads]), block.k_norm(qk[:, self.heads :])), dim=1)
        if block.rotates:
            qk = torch.addcmul(qk * cos, qk.roll(self.head // 2, dims=-1), sin)
        q, kv = qk[:, : self.heads], torch.cat((qk[:, self.heads :], v), dim=1)
        kv = kv.view(rows, 2, self.kv_heads, self.head)
        found = []
        for chunk, (start, stop), mask in parts:
            stored, read = chunk.state.data[number], len(chunk.state.ids)
            length = read + stop - start
            stored[:, :, read:length] = kv[start:stop].permute(1, 2, 0, 3)
            keys, values = stored[0, :, :length], stored[1, :, :length]
            if self.fast and stop - start == 1 and length > SHORT:
                found.append(_attend_once(q[start], keys, values, self.scale))
                continue
            attended = scaled_dot_product_attention(
                q[start:stop].transpose(0, 1)[None], keys[None], values[None], attn_mask=mask,
                is_causal=mask is None and length > 1 and read == 0, scale=self.scale, enable_gqa=True,
            )  # fmt: skip
            found.append(attended[0].transpose(0, 1).reshape(stop - start, -1))
        return block.linear["o"](found[0] if len(found) == 1 else torch.cat(found), groups)


def _mlp(block: Block, x: Tensor, groups: list[Group]) -> Tensor:
    gate, up = block.linear["gate_up"](x, groups).chunk(2, dim=-1)
    return block.linear["down"](silu(gate).mul_(up), groups)


def _attend_once(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """[1, heads x head]: the attention of one token's q [heads, head] to keys and values [key-value heads, length, head]."""
    grouped = q.view(keys.shape[0], -1, keys.shape[2])
    scores = torch.bmm(grouped, keys.transpose(1, 2)).float().mul_(scale)
    return torch.bmm(torch.softmax(scores, dim=-1).to(values.dtype), values).view(1, -1)


def _mask(new: int, read: int, dtype: torch.dtype) -> Tensor | None:
    """Which places each of `new` tokens behind `read` others sees; None where nothing or plain causality needs saying."""
    if new == 1 or read == 0:
        return None
    mask = torch.zeros(new, read + new, dtype=dtype)
    return mask.masked_fill_(torch.ones(new, read + new, dtype=torch.bool).triu_(read + 1), float("-inf"))


def _norm(module: Any, fast: bool) -> Norm | Mirrored:
    plain = _plain_norm(module)
    return Mirrored(plain) if fast else plain


def _plain_norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)


def _block(layer: Any, rotates: bool, added: Mapping[str, Mapping[str, LowRank]], fast: bool) -> Block:
    linear = {}
    for name, parts in FUSED.items():
        modules = [layer.get_submodule(part) for part in parts]
        weight = torch.cat([module.weight.detach() for module in modules])
        bias = None
        if any(module.bias is not None for module in modules):
            zeros = [torch.zeros(module.out_features, dtype=weight.dtype) for module in modules]
            bias = torch.cat([zero if m.bias is None else m.bias.detach() for m, zero in zip(modules, zeros)])
        here = {adapter: parts[name] for adapter, parts in added.items() if name in parts}
        linear[name] = Product(weight, bias, here, fast)
    attention = layer.self_attn
    q_norm, k_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return Block(
        linear, _norm(layer.input_layernorm, fast), _norm(layer.post_attention_layernorm, fast),
        _plain_norm(q_norm) if q_norm is not None else None, _plain_norm(k_norm) if k_norm is not None else None, rotates,
    )  # fmt: skip


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
    error = (got - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return runner if bool(error <= TOLERANCE[runner.dtype]) else None
