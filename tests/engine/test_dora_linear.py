"""DoRA's layer as one function against the plain composition, and its trained norm against the whole matrix."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tutelage.engine.dora_linear import DoraLinear
from tutelage.engine.linear import BaseLinear, base_linear
from tutelage.engine.lora_linear import LoraLinear
from tutelage.engine.residual_linear import ResidualLinear


def base_of(kind: str) -> BaseLinear:
    if kind == "Conv1D":
        module: Any = Conv1D(24, 16)
        module.bias.data.normal_(std=20)  # as Qwen2's keys have
    else:
        module = nn.Linear(16, 24, bias=kind != "no bias")
    base = base_linear(module.double().requires_grad_(False))
    if kind == "residual":
        base = ResidualLinear(base, torch.randn(3, 16).double(), torch.randn(24, 3).double(), 0.4)
    return base


def made(kind: str, randomised: bool = True) -> DoraLinear:
    torch.manual_seed(0)
    layer = DoraLinear(base_of(kind), 3, 0.7).double()
    nn.init.normal_(layer.a)
    if randomised:
        nn.init.normal_(layer.b)
        nn.init.normal_(layer.m, mean=1.0)
    return layer.eval()


def results(layer: LoraLinear, x: Tensor) -> list[Tensor]:
    y = layer(x)
    return [y, *torch.autograd.grad((y**2).sum(), [x, *layer.parameters(recurse=False)])]


KINDS = pytest.mark.parametrize("kind", ["bias", "no bias", "Conv1D", "residual"])


@KINDS
def test_the_function_equals_the_plain_composition(kind: str) -> None:
    layer = made(kind)
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    ours = results(layer, x)
    layer.fast = False
    assert [name for name, _ in layer.named_parameters(recurse=False)] == ["a", "b", "m"]
    for got, want in zip(ours, results(layer, x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@KINDS
def test_norms_are_those_of_the_whole_matrix_and_a_constant(kind: str) -> None:
    layer = made(kind)
    whole = layer.base.dense() + layer.scale * layer.b @ layer.a
    torch.testing.assert_close(layer.norms(), whole.norm(dim=1).detach(), rtol=1e-12, atol=0)
    assert not layer.norms().requires_grad


@KINDS
def test_it_starts_as_what_it_wraps_and_merges_to_what_it_computes(kind: str) -> None:
    fresh = made(kind, randomised=False)
    x = torch.randn(7, 16, dtype=torch.float64)
    fresh.start()
    torch.testing.assert_close(fresh(x), fresh.base.matmul(x), rtol=1e-6, atol=1e-6)
    layer = made(kind)
    expected = layer(x).detach()
    layer.base.add_(layer.delta().detach())
    torch.testing.assert_close(layer.base.module()(x), expected, rtol=1e-9, atol=1e-9)


def test_dropout_draws_for_the_adapter_alone() -> None:
    layer = made("bias").train()
    layer.dropout = 0.5
    nn.init.zeros_(layer.b)
    x = torch.randn(7, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer(x))
    nn.init.normal_(layer.b)
    assert not torch.allclose(layer(x), layer(x))
