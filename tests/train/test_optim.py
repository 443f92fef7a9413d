"""The optimiser: some parameters learn faster (LoRA+), and what a bf16 model learns shows in it."""

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tutelage.methods import METHODS
from tutelage.recipe import LoraSpec, OptimSpec
from tutelage.train.optim import Optimizer


def one_step(faster: dict[str, float]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    parameters = {
        "x.a": nn.Parameter(torch.randn(3, 4)),
        "x.b": nn.Parameter(torch.randn(4, 3)),
        "n": nn.Parameter(torch.randn(4)),
    }
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = Optimizer(parameters, OptimSpec(weight_decay=0.1), faster=faster)
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    optimizer.step(1e-3, 0.5)
    return {name: before[name] - p.detach() for name, p in parameters.items()}


def test_only_the_named_ones_learn_so_many_times_faster() -> None:
    plain, faster = one_step({}), one_step({"x.b": 16.0})
    torch.testing.assert_close(faster["x.b"], 16 * plain["x.b"], rtol=1e-3, atol=1e-6)
    for name in ("x.a", "n"):
        assert torch.equal(faster[name], plain[name])


def test_lora_plus_names_every_b() -> None:
    sizes = {"vocab_size": 60, "n_embd": 24, "n_layer": 2, "n_head": 2}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["gpt2"](**sizes))
    trainable = METHODS.get("lora").prepare(model, LoraSpec(rank=2, loraplus_ratio=16, dora=True), seed=0)
    assert trainable.faster == {name: 16.0 for name in trainable.parameters if name.endswith(".b")}
    assert len(trainable.faster) == 8


@pytest.mark.parametrize("rows", [None, list(range(0, 200, 2))])
def test_steps_smaller_than_bf16_can_show_still_show_on_average(rows: list[int] | None) -> None:
    weight = nn.Parameter((0.1 + 0.001 * torch.randn(200, 300, generator=torch.Generator().manual_seed(0))).bfloat16())
    before, places = weight.detach().float(), torch.tensor(rows or range(200))
    optimizer = Optimizer({"w": weight}, OptimSpec(), rows={"w": places} if rows else None)
    for _ in range(4):  # of 1e-5 each; bf16 values near 0.1 are 49e-5 apart
        optimizer.masters["w"].grad = torch.ones_like(optimizer.masters["w"])
        optimizer.step(1e-5, 0.5)
    moved = (weight.detach().float() - before)[places]
    assert float(moved.mean()) == pytest.approx(-4e-5, rel=0.05)
    assert 0.05 < float((moved != 0).float().mean()) < 0.12
    untouched = torch.ones(200, dtype=torch.bool).index_fill_(0, places, False)
    assert torch.equal(weight.detach().float()[untouched], before[untouched])
    again = Optimizer({"w": nn.Parameter(before.bfloat16())}, OptimSpec(), rows={"w": places} if rows else None)
    again.load(optimizer.state())
    assert torch.equal(again.parameters["w"], weight)
