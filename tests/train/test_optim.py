"""The optimiser's groups: some parameters learn faster (LoRA+), and the rest as before."""

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
    optimizer = Optimizer(parameters, OptimSpec(weight_decay=0.1), faster)
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
