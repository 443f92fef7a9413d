"""NEFTune's noise: its bound by each example's own length, where it is drawn, and where it is not."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.bert.configuration_bert import BertConfig

from tutelage.data.types import At
from tutelage.encode.layout import make_layout
from tutelage.encode.types import Encoded, Layout, Segment
from tutelage.engine.backbone import Backbone, make_backbone
from tutelage.engine.headed import make_headed
from tutelage.engine.noise import drawn_, noisy
from tutelage.tasks import chat

ALPHA = 5.0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_masks_drop_their_share_and_keep_the_mean(share: float) -> None:
    torch.manual_seed(0)
    masks = [drawn_(torch.empty(101, 1003), share) for _ in range(4)]
    assert not torch.equal(masks[0], masks[1])
    mask = torch.stack(masks)
    bound = 4 * math.sqrt(share * (1 - share) / mask.numel())  # four standard errors
    assert abs(float((mask == 0).double().mean()) - share) < bound
    assert float(mask.double().mean()) == pytest.approx(1.0, abs=bound / (1 - share))
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)], rel=1e-4)
    for lane in range(4):  # the four that come of one number
        assert abs(float((masks[0].view(-1)[lane::4] == 0).double().mean()) - share) < 8 * bound
    side = [(a == 0).double() - share for a in (mask[:, :, :-1], mask[:, :, 1:])]
    assert abs(float((side[0] * side[1]).mean())) < bound
    torch.manual_seed(0)
    assert torch.equal(drawn_(torch.empty(101, 1003), share), masks[0])


def test_each_example_gets_noise_by_its_own_length_though_packed() -> None:
    torch.manual_seed(0)
    segments = (Segment(0, 400), Segment(400, 416), Segment(416, 480))
    noise = noisy(torch.zeros(480, 64), segments, ALPHA)
    for segment in segments:
        own = noise[segment.start : segment.stop]
        bound = ALPHA / math.sqrt((segment.stop - segment.start) * 64)
        assert 0.97 * bound < float(own.abs().max()) <= bound
        assert float(own.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(float(own.mean())) < 0.1 * bound
    torch.manual_seed(0)
    alone = noisy(torch.zeros(400, 64), segments[:1], ALPHA)
    assert torch.equal(alone, noise[:400])


def layout() -> Layout:
    rng = np.random.default_rng(0)
    rows = [
        Encoded(rng.integers(3, 60, n).astype(np.int32), np.ones(n, np.float32), np.zeros(n, np.uint8), At("test", 1))
        for n in (31, 14)
    ]
    return make_layout(rows, share_prefix=False)


def loss(backbone: Backbone, seed: int = 0) -> float:
    torch.manual_seed(seed)
    return float(chat.loss(backbone, layout()).total)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2"])
def test_it_is_drawn_by_the_seed_while_training_and_nowhere_else(
    kind: str, model_folder: Callable[[str], Path]
) -> None:
    backbone = make_backbone(AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32).eval())
    calm = loss(backbone)
    noisy_one = replace_noise(backbone)
    assert loss(noisy_one) == loss(noisy_one)
    assert loss(noisy_one) not in (calm, loss(noisy_one, seed=1))
    assert loss(noisy_one) == pytest.approx(calm, rel=0.2)
    with torch.no_grad():
        assert loss(noisy_one) == loss(backbone)  # validation, and all use
    torch.manual_seed(0)
    slow = float(chat.loss(noisy_one, layout(), fast=False).total)
    assert slow == pytest.approx(loss(noisy_one), rel=1e-4)  # the same draws, whichever way the layers are computed


def replace_noise(backbone: Any) -> Any:

    return replace(backbone, noise=ALPHA)


def test_encoders_get_it_too() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    backbone = make_headed(AutoModelForMaskedLM.from_config(BertConfig(vocab_size=60, **sizes)).eval())
    noisy_one, given = replace_noise(backbone), layout()
    assert backbone.packs
    torch.manual_seed(0)
    changed = noisy_one.scores(given)
    torch.manual_seed(0)
    torch.testing.assert_close(noisy_one.scores(given, fast=False), changed, rtol=1e-3, atol=1e-4)
    assert not torch.equal(changed, backbone.scores(given))
    with torch.no_grad():
        torch.testing.assert_close(noisy_one.scores(given), backbone.scores(given))
