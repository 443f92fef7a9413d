"""The optimiser: some parameters learn faster (LoRA+), and what a bf16 model learns shows in it."""

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tutelage.methods import METHODS
from tutelage.recipe import LoraSpec, OptimSpec
from tutelage.train.adamw_8bit import AT_ONCE
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


def test_8_bit_moments_give_the_bits_of_bitsandbytes_own_optimizer_also_in_pieces() -> None:
    torch.manual_seed(0)
    shapes = {"large": (3, AT_ONCE // 2 + 77), "one piece": (100, 70), "small": (40, 100), "bias": (70,)}
    start = {name: torch.randn(shape) for name, shape in shapes.items()}
    ours, theirs = ({n: nn.Parameter(v.clone()) for n, v in start.items()} for _ in range(2))
    optimizer = Optimizer(ours, OptimSpec(kind="adamw_8bit", weight_decay=0.1, max_grad_norm=1e9))
    groups = [{"params": [p for p in theirs.values() if (p.dim() > 1) == decays], "weight_decay": 0.1 * decays}
              for decays in (True, False)]  # fmt: skip
    peer = bitsandbytes.optim.AdamW8bit(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(3):
        for name, value in start.items():
            ours[name].grad = torch.randn_like(value)
            theirs[name].grad = ours[name].grad.clone()
        optimizer.step(1e-3, 1.0)
        peer.step()
    for name in shapes:
        assert torch.equal(ours[name], theirs[name])
        assert not torch.equal(ours[name], start[name])


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_what_the_optimizer_says_it_holds_is_what_a_checkpoint_gets(kind: str) -> None:
    weight, bias = nn.Parameter(torch.randn(100, 256).bfloat16()), nn.Parameter(torch.randn(100))
    optimizer = Optimizer({"w": weight, "b": bias}, OptimSpec(kind=kind))
    optimizer.reserve()
    per_value = 8 if kind == "adamw" else 2 + 8 / 256
    assert optimizer.bytes() == 25_600 * (4 + per_value) + 100 * 8 + 2 * 4
    held = sum(tensor.nbytes for tensor in optimizer.state().values())
    assert held == optimizer.bytes() + bias.nbytes  # which is its own master


def test_8_bit_moments_learn_as_fp32_moments_do() -> None:
    torch.manual_seed(0)
    x, right = torch.randn(512, 64), torch.randn(64, 80)
    lost = {}
    for kind in ("adamw", "adamw_8bit"):
        weight = nn.Parameter(torch.zeros(64, 80))
        optimizer = Optimizer({"w": weight}, OptimSpec(kind=kind, learning_rate=0.02, max_grad_norm=1e9))
        for _ in range(60):
            loss = (x @ weight - x @ right).square().mean()
            loss.backward()
            optimizer.step(0.02, 1.0)
        lost[kind] = float(loss.detach())
    assert lost["adamw"] < 0.3 * float((x @ right).square().mean())
    assert lost["adamw_8bit"] == pytest.approx(lost["adamw"], rel=0.05)


def test_the_norm_is_of_this_steps_gradients_alone() -> None:
    parameters = {
        "a": nn.Parameter(torch.zeros(3, 4, dtype=torch.bfloat16)),
        "b": nn.Parameter(torch.zeros(5, dtype=torch.bfloat16)),
        "exact": nn.Parameter(torch.zeros(2)),
    }
    optimizer = Optimizer(parameters, OptimSpec())
    for used in (["a", "b", "exact"], ["b"], ["a", "exact"]):
        sum((3 * parameters[name].sum() for name in used), torch.zeros(())).backward()
        expected = 3 * sum(parameters[name].numel() for name in used) ** 0.5
        assert optimizer.gradient_norm() == pytest.approx(expected)
        optimizer.step(1e-3, expected)


@pytest.mark.parametrize("rows", [None, [1, 3]])
def test_a_weight_that_is_exactly_0_stays_a_number(rows: list[int] | None) -> None:
    weight = nn.Parameter(torch.zeros(4, 5000, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": weight}, OptimSpec(), rows={"w": torch.tensor(rows)} if rows else None)
    optimizer.masters["w"].grad = torch.zeros_like(optimizer.masters["w"])
    optimizer.step(1e-3, 0.0)
    assert float(weight.abs().max()) == 0.0
