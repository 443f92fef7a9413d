"""The hand-written encoder layers against each family's own forward: hidden states and every gradient."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from tutelage.encode.types import Layout, Segment
from tutelage.engine import noise
from tutelage.engine.attention import NAME, register
from tutelage.engine.backbone import Backbone, with_stack
from tutelage.engine.encoder import EncoderStack
from tutelage.engine.picked import few
from tutelage.engine.stack import Keep
from tutelage.methods import METHODS
from tutelage.recipe import FullSpec, LoraSpec

SIZES = {
    "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 80, "pad_token_id": 1, "initializer_range": 0.2,
}  # fmt: skip
DISTIL = {"vocab_size": 90, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "pad_token_id": 1}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {**SIZES, "hidden_act": "gelu_new"}, "roberta": SIZES, "xlm-roberta": SIZES, "camembert": SIZES,
    "electra": {**SIZES, "embedding_size": 16}, "distilbert": DISTIL,
}  # fmt: skip
FIRST = {"roberta": 2, "xlm-roberta": 2, "camembert": 2}  # behind the padding index


def backbone_of(kind: str, method: str) -> tuple[Backbone, dict[str, torch.nn.Parameter]]:
    torch.manual_seed(0)
    register()
    config = transformers.CONFIG_MAPPING[kind](**KINDS[kind])
    model = transformers.AutoModel.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.set_attn_implementation(NAME)
    draft = Backbone(
        model, model.base_model, model, 1.0, None, packs=True, plain_logits=False, first_position=FIRST.get(kind, 0)
    )
    backbone = with_stack(draft)
    spec = LoraSpec(rank=4, alpha=8) if method == "lora" else FullSpec()
    trainable = METHODS.get(method).prepare(model, spec, seed=0)
    for parameter in trainable.parameters.values():
        parameter.data = (torch.randn_like(parameter) * 0.3 if method == "lora" else parameter).double()
    return backbone, trainable.parameters


def layout() -> Layout:
    segments = (Segment(0, 12), Segment(12, 17), Segment(17, 34), Segment(34, 41))
    positions = torch.cat([torch.arange(s.stop - s.start) for s in segments])
    sources, none = torch.tensor([0, 0, 12, 19, 40]), torch.empty(0)
    return Layout(torch.arange(2, 43) % 90, positions, segments, sources, none, none, 41)


def repeated(one: Layout, copies: int) -> Layout:
    """The layout so many times on one axis; its sources are those of the first, and of the last one's end."""
    size = len(one.ids)
    segments = tuple(Segment(s.start + i * size, s.stop + i * size) for i in range(copies) for s in one.segments)
    sources = torch.cat((one.sources, one.sources[-1:] + (copies - 1) * size))
    many = (t.repeat(copies) for t in (one.ids, one.positions))
    return Layout(*many, segments, sources, one.labels, one.weights, size * copies)


@pytest.mark.parametrize("copies", [1, 7], ids=["many queries", "few queries"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_hand_written_layers_are_the_models_own(kind: str, method: str, copies: int) -> None:
    backbone, parameters = backbone_of(kind, method)
    assert backbone.stack is not None
    results = {}
    for name, fast, keep in (("own", False, Keep.ALL), *((k.name, True, k) for k in Keep)):
        for parameter in parameters.values():
            parameter.grad = None
        given = repeated(layout(), copies)
        assert few(torch.empty(32), len(given.ids)) == (copies > 1)
        states = replace(backbone, keep=keep).at_sources(given, fast=fast)
        weighed(states).backward()
        results[name] = (states.detach(), {n: p.grad for n, p in parameters.items()})
    expected, gradients = results.pop("own")
    trained = {name for name, gradient in gradients.items() if gradient is not None}
    assert len(trained) >= 24
    for states, found in results.values():
        torch.testing.assert_close(states, expected, rtol=1e-9, atol=1e-11)
        for parameter in trained:
            got, want = found[parameter], gradients[parameter]
            assert float(want.norm()) > 0 or "key.bias" in parameter or "k_lin.bias" in parameter
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


def test_a_model_with_another_part_runs_its_own_forward() -> None:
    config = transformers.CONFIG_MAPPING["bert"](**SIZES, is_decoder=True, add_cross_attention=True)
    model = transformers.AutoModel.from_config(config)
    assert with_stack(Backbone(model, model, model, 1.0, None, packs=True, plain_logits=False)).stack is None


def weighed(states: torch.Tensor) -> torch.Tensor:
    """A number that every hidden state changes."""
    return (states**2 * torch.arange(1, states.numel() + 1).view(states.shape) / 100).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_the_models_own_with_the_same_draws(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_torch(count: int, steps: int, device: torch.device) -> torch.Tensor:
        return torch.empty(count, dtype=torch.float64, device=device).bernoulli_(1 - steps / noise.STEPS).bool()

    monkeypatch.setattr(noise, "stays", as_torch)
    backbone, parameters = backbone_of(kind, "full")
    assert isinstance(backbone.stack, EncoderStack)
    backbone = replace(backbone, stack=replace(backbone.stack, dropout=0.25, attention_dropout=0.25))
    backbone.model.set_attn_implementation("eager")  # which draws for [heads, 32, 32] weights, as ours do for 32 tokens
    tokens, first = 32, FIRST.get(kind, 0)
    none = torch.empty(0, dtype=torch.int64)
    given = Layout(torch.arange(2, 34), torch.arange(tokens), (Segment(0, tokens),), none, none, none.float(), tokens)
    results = {}
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.25
    for name, keep in (("own", None), *((k.name, k) for k in Keep)):
        for parameter in parameters.values():
            parameter.grad = None
        torch.manual_seed(5)
        if keep is None:
            positions = {} if kind == "distilbert" else {"position_ids": given.positions[None] + first}
            states = backbone.model.train()(input_ids=given.ids[None], **positions).last_hidden_state[0]
        else:
            backbone.model.eval()
            states = replace(backbone, keep=keep).hidden(given)
        weighed(states).backward()
        results[name] = (states.detach(), {n: p.grad for n, p in parameters.items() if p.grad is not None})
    expected, gradients = results.pop("own")
    assert len(gradients) >= 24
    for states, found in results.values():
        torch.testing.assert_close(states, expected, rtol=1e-9, atol=1e-11)
        for parameter, want in gradients.items():
            torch.testing.assert_close(found[parameter], want, rtol=1e-8, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(backbone.hidden(given), backbone.hidden(given), rtol=0, atol=0)


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize("copies", [1, 7], ids=["many queries", "few queries"])
def test_gradients_with_dropout_are_those_of_the_weights_that_stay(copies: int, keep: Keep) -> None:
    backbone, parameters = backbone_of("bert", "full")
    assert isinstance(backbone.stack, EncoderStack)
    backbone = replace(backbone, stack=replace(backbone.stack, attention_dropout=0.4), keep=keep)
    directions = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}

    def moved(step: float) -> None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.add_(directions[name], alpha=step)

    def found() -> torch.Tensor:
        torch.manual_seed(5)
        return weighed(backbone.at_sources(repeated(layout(), copies)))

    found().backward()
    slope = sum(float((p.grad * directions[n]).sum()) for n, p in parameters.items() if p.grad is not None)
    moved(1e-6)
    above = float(found().detach())
    moved(-2e-6)
    assert slope == pytest.approx((above - float(found().detach())) / 2e-6, rel=1e-5)
