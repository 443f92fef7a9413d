"""Weights in four bits: what they hold is what their format says, products and gradients are those of the dequantised weight."""

import copy

import gguf
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tutelage.engine import int4, nf4
from tutelage.engine.four_bits import DEQUANTISED_AT_ONCE, FourBitLinear, Quantisation, Scratch
from tutelage.engine.int4 import Int4Linear
from tutelage.engine.linear import base_linear
from tutelage.engine.lora_linear import LoraLinear
from tutelage.engine.nf4 import Nf4Linear, _bounds, coded_blocks, functional
from tutelage.engine.tally import Tally

# Rows of whole blocks, of parts; odd; large
SHAPES = [(48, 128), (48, 100), (64, 96), (7, 33), (1, 64), (4, 25), (1200, 1024)]
HOW = [Quantisation(), Quantisation(double=False), Quantisation(block_size=256), Quantisation(32), Quantisation(16),
       Quantisation(32, kind="int4"), Quantisation(32, double=False, kind="int4"), Quantisation(128, kind="int4")]  # fmt: skip


def layer(
    shape: tuple[int, int], how: Quantisation = HOW[0], seed: int = 0, scratch: Scratch | None = None
) -> FourBitLinear:
    torch.manual_seed(seed)
    kind = Int4Linear if how.kind == "int4" else Nf4Linear
    return kind(torch.randn(shape) * 0.02, torch.randn(shape[0]), how, scratch or Scratch())


def plain_of(layer: FourBitLinear) -> Tensor:
    return int4.plain_values(layer) if isinstance(layer, Int4Linear) else nf4.plain_values(layer)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dequantised_is_what_the_format_says(shape: tuple[int, int], how: Quantisation) -> None:
    made = layer(shape, how)
    expected = plain_of(made)
    assert torch.equal(made._weight(torch.float32), expected)
    assert torch.equal(made._weight(torch.bfloat16), expected.to(torch.bfloat16))
    assert torch.equal(made._weight(torch.float64), expected.double())
    assert torch.equal(made.dense(), expected)
    torch.manual_seed(0)
    error = (expected - torch.randn(shape) * 0.02).norm() / (torch.randn(shape) * 0.02).norm()
    most = 0.14 if how.kind == "int4" else 0.13
    assert error < most, "four bits lose about a tenth of a normal weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("block", [32, 64, 1024])
def test_quantised_as_bitsandbytes_does(block: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = (torch.randn(1 << 15) * 0.02).to(dtype)
    values[:64], values[64:96], values[100] = 0.0, values[100], -3.0  # zeros, values on the edge, an outlier
    for ours, theirs in zip(coded_blocks(values, block), coded_blocks(values, block, fast=False)):
        assert torch.equal(ours, theirs)
        assert len(ours.unique()) > 16
    grid = torch.tensor(_bounds()).repeat_interleave(3) + torch.tensor([-1e-7, 0.0, 1e-7]).repeat(15)
    edges = torch.cat((torch.ones(1), grid, torch.zeros(18)))  # where one code gives way to the next
    for ours, theirs in zip(coded_blocks(edges, 64), coded_blocks(edges, 64, fast=False)):
        assert torch.equal(ours, theirs)


def test_the_large_one_goes_through_the_scratch_in_parts() -> None:
    scratch = Scratch()
    big = layer(SHAPES[-1], scratch=scratch)
    assert DEQUANTISED_AT_ONCE < 1200 * 1024
    before = big._weight(torch.bfloat16)
    assert before.data_ptr() == big._weight(torch.bfloat16).data_ptr()
    assert len(scratch.buffers) == 1
    assert big.dense().data_ptr() != big.dense().data_ptr()  # whoever asks for the weight may keep it


@pytest.mark.parametrize("how", [*HOW[:3], HOW[5]], ids=str)
def test_its_bytes_are_the_published_bits_per_weight(how: Quantisation) -> None:
    made = layer((1024, 1024), how)
    assert made.weight_bytes * 8 / 1024**2 == pytest.approx(how.bits, rel=1e-6)
    assert made.weight_bytes / (2 * 1024**2) <= 0.30
    assert Quantisation().bits == pytest.approx(4.127, abs=5e-4)
    assert HOW[5].bits == pytest.approx(4.516, abs=5e-4)


def test_another_dtype_for_the_model_changes_no_block() -> None:
    made = layer((96, 128))
    expected, model = plain_of(made), nn.Sequential(made)
    model.to(torch.bfloat16)
    assert made.like.dtype == made.dense().dtype == torch.bfloat16
    assert torch.equal(made._weight(torch.float32), expected)
    assert torch.equal(copy.deepcopy(model)[0]._weight(torch.float32), expected)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-3)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(48, 100), (1200, 1024)], ids=str)
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("how", [HOW[0], HOW[5]], ids=["nf4", "int4"])
def test_adapter_gradients_are_those_of_dequantise_then_matmul(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float, fast: bool, how: Quantisation
) -> None:
    """Also after an evaluation in between, and when another weight has taken the scratch before the backward."""
    scratch = Scratch()
    base, other = layer(shape, how, scratch=scratch).to(dtype), layer(shape, how, 5, scratch).to(dtype)
    ours = LoraLinear(base, rank=4, scale=2.0, fast=fast)
    torch.manual_seed(1)
    ours.b.data.normal_(std=0.1)
    ours.a.data.normal_(std=0.1)
    x, g = torch.randn(33, shape[1]).to(dtype), torch.randn(33, shape[0]).to(dtype)
    expected = reference(ours, x, g, dtype)
    for _ in range(2):
        ours.eval()
        with torch.no_grad():
            assert torch.equal(ours(x), ours(x))
        ours.train()
        found = ours.zero_grad(), run(ours, x, g, other)
        for name, mine, theirs in zip(("y", "dx", "da", "db"), found[1], expected):
            assert theirs.norm() > 0
            allowed = 4 * tolerance if name in ("y", "dx") else tolerance  # in bf16 themselves: rounded once or twice
            assert (mine.double() - theirs.double()).norm() / theirs.double().norm() <= allowed, name


def run(ours: LoraLinear, x: Tensor, g: Tensor, other: FourBitLinear) -> tuple[Tensor, ...]:
    given = x.clone().requires_grad_()
    y = ours(given)
    other._weight(x.dtype)
    y.backward(g)
    assert given.grad is not None and ours.a.grad is not None and ours.b.grad is not None  # noqa: PT018
    return y.detach(), given.grad, ours.a.grad, ours.b.grad


def reference(ours: LoraLinear, x: Tensor, g: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    base: FourBitLinear = ours.base  # type: ignore[assignment]
    given, weight = x.clone().requires_grad_(), plain_of(base).to(dtype)
    a, b = ours.a.detach().clone().requires_grad_(), ours.b.detach().clone().requires_grad_()
    y = nn.functional.linear(given, weight, base.bias()) + (given @ a.to(dtype).t() @ b.to(dtype).t()) * ours.scale
    y.backward(g)
    assert given.grad is not None and a.grad is not None and b.grad is not None  # noqa: PT018
    return y.detach(), given.grad, a.grad, b.grad


@pytest.mark.parametrize("how", [HOW[0], HOW[5]], ids=["nf4", "int4"])
def test_it_trains_after_an_evaluation_in_inference_mode(how: Quantisation) -> None:
    ours = LoraLinear(layer(SHAPES[-1], how), rank=4, scale=2.0)
    ours.a.data.normal_()
    ours.b.data.normal_()
    with torch.inference_mode():
        ours(torch.randn(3, 1024))
    x = torch.randn(3, 1024, requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None
    assert x.grad.norm() > 0


def test_a_layer_without_an_adapter_hands_its_gradient_on() -> None:
    made = layer((24, 128))
    x = torch.randn(2, 5, 128, requires_grad=True)
    y = made(x)
    y.square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * y.detach() @ plain_of(made))
    assert not any(p.requires_grad for p in made.parameters())


@pytest.mark.parametrize("kind", ["linear", "linear without bias", "conv"])
def test_the_plain_layer_comes_back_with_dequantised_values(kind: str) -> None:
    torch.manual_seed(0)
    module: nn.Module = Conv1D(96, 128) if kind == "conv" else nn.Linear(128, 96, bias=kind == "linear")
    made = Nf4Linear.of(module, HOW[0], Scratch())
    plain, x = made.module(), torch.randn(3, 128)
    assert type(plain) is type(module)
    assert [(n, p.shape) for n, p in plain.named_parameters()] == [(n, p.shape) for n, p in module.named_parameters()]
    torch.testing.assert_close(plain(x), made(x))
    torch.testing.assert_close(plain(x), module(x), atol=0.4, rtol=0.1)
    torch.testing.assert_close(base_linear(plain).dense(), plain_of(made))
    assert made.fan_in_fan_out == (kind == "conv")
    with pytest.raises(TypeError, match="dequantise"):
        made.add_(torch.zeros(96, 128))


def test_a_layer_without_values_leaves_the_next_one_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes keeps its table of scales on the device that asked first: an estimate asks for none."""
    monkeypatch.setattr(functional(), "name2qmap", {})
    torch.manual_seed(0)
    layers = [nn.Linear(128, 64, bias=False, device=device) for device in ("meta", "cpu")]
    with Tally():
        hollow = Nf4Linear.of(layers[0], Quantisation(), Scratch())
    real = Nf4Linear.of(layers[1], Quantisation(), Scratch())
    assert hollow.codes.is_meta
    assert hollow.codes.shape == real.codes.shape
    torch.testing.assert_close(real.dense(), layers[1].weight.detach(), rtol=0, atol=0.02)


def test_weights_that_were_stored_in_q4_1_come_back_without_a_loss() -> None:
    torch.manual_seed(0)
    drawn = (torch.randn(96, 128) * 0.02).numpy()
    stored = gguf.quants.quantize(drawn, gguf.GGMLQuantizationType.Q4_1)
    weight = torch.from_numpy(gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q4_1))
    whole, double, other = (
        Int4Linear(weight, None, Quantisation(32, double=False, kind="int4"), Scratch()),
        Int4Linear(weight, None, Quantisation(32, kind="int4"), Scratch()),
        Nf4Linear(weight, None, Quantisation(32), Scratch()),
    )
    lost = [float((each.dense() - weight).norm() / weight.norm()) for each in (whole, double, other)]
    assert lost[0] < 1e-6
    assert lost[1] < lost[2] / 3
    assert whole.weight_bytes * 8 == weight.numel() * 5


def test_blocks_of_one_value_stay_that_value() -> None:
    for value in (0.0, 0.25, -3.0):
        for double in (True, False):
            made = Int4Linear(torch.full((8, 64), value), None, Quantisation(32, double, kind="int4"), Scratch())
            assert torch.equal(made.dense(), torch.full((8, 64), value))
