"""A weight less a part of it: every product of it, and the whole again when something is added."""

import torch
from torch import nn

from tutelage.engine.linear import base_linear
from tutelage.engine.residual_linear import ResidualLinear


def test_it_computes_with_the_weight_that_it_lacks_a_part_of() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 24).double().requires_grad_(False)
    a, b = torch.randn(3, 16).double(), torch.randn(24, 3).double()
    layer = ResidualLinear(base_linear(linear), a, b, 0.7)
    weight, before = linear.weight - 0.7 * b @ a, linear.weight.clone()
    x, g = torch.randn(5, 16).double(), torch.randn(5, 24).double()
    torch.testing.assert_close(layer.dense(), weight)
    torch.testing.assert_close(layer.product(x), x @ weight.t())
    torch.testing.assert_close(layer.matmul(x), x @ weight.t() + linear.bias)
    torch.testing.assert_close(layer.matmul_t(g), g @ weight)
    into = torch.ones(5, 16).double()
    torch.testing.assert_close(layer.matmul_t(g, into), g @ weight + 1)
    assert torch.equal(linear.weight, before)
    delta = torch.randn(24, 16).double()
    layer.add_(delta)
    torch.testing.assert_close(layer.module().weight, weight + delta)
    torch.testing.assert_close(layer.dense(), weight + delta)
