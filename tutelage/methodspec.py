"""The recipe's `method` part, for methods that have more than a few keys: each key, its default and its meaning. Torch-free."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from tutelage.taskspec import Spec


def _layers_listed(value: object) -> object:
    return [value] if isinstance(value, int | str) else value


def _range(text: str) -> range:
    """`20-29` as the numbers from 20 to 29; empty if it is none."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", text)
    return range(int(match[1]), int(match[2]) + 1) if match else range(0)


class LoraSpec(Spec):
    """Method `lora` (Hu et al. 2021, arXiv 2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1, le=4096)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) (arXiv 2312.03732) instead of alpha / rank")
    dora: bool = Field(False, description="train magnitudes apart from directions (DoRA, arXiv 2402.09353)")
    init: Literal["kaiming", "pissa", "pissa_niter_4", "pissa_niter_16", "qera"] = Field(
        "kaiming",
        description="what the adapter starts from: kaiming, or the weights' largest singular values (PiSSA, arXiv "
        "2404.02948), exactly or by 4 or 16 iterations; with `calibrate` qera: what rounding took (arXiv 2410.06040)",
    )
    loraplus_ratio: float | None = Field(
        None, ge=1.0, description="B's learning rate is this many times A's (LoRA+, arXiv 2402.12354)"
    )
    target_modules: Literal["all-linear", "attention", "mlp"] | list[str] = Field(
        "all-linear", description="as PEFT means it; or the linear layers of one kind; or names and patterns with *"
    )
    layers: Annotated[list[int | str] | None, BeforeValidator(_layers_listed)] = Field(
        None, description="which layers, counted from 0, e.g. [0, 1, 20-29]; none: all"
    )
    adapter: str | None = Field(None, description="a PEFT adapter folder to continue from")

    @model_validator(mode="after")
    def _fits_together(self) -> "LoraSpec":
        if self.adapter is not None and self.init != "kaiming":
            raise ValueError(f"init: {self.init} has no effect with `adapter`, which brings its weights: leave one out")
        if self.init == "qera" and not getattr(self, "calibrate", 0):
            raise ValueError("init: qera needs `kind: qlora` with `calibrate`, e.g. calibrate: 128")
        if self.init == "qera" and self.dora:
            raise ValueError("init: qera has no magnitudes: leave `dora` out")
        wrong = [item for item in self.layers or () if isinstance(item, str) and not _range(item)]
        if wrong:
            raise ValueError(f"layers: `{wrong[0]}` is not a range: write numbers and first-last, e.g. [0, 1, 20-29]")
        below = [item for item in self.layers or () if isinstance(item, int) and item < 0]
        if below:
            raise ValueError(f"layers: {below[0]} is no layer: they are counted from 0")
        if self.layers == []:
            raise ValueError("layers: name at least one, or leave it out for all of them")
        return self

    def layer_numbers(self) -> set[int] | None:
        """The numbers that `layers` names; None: all."""
        if self.layers is None:
            return None
        ranges = [range(item, item + 1) if isinstance(item, int) else _range(item) for item in self.layers]
        return {number for each in ranges for number in each}


class QloraSpec(LoraSpec):
    """Method `qlora` (Dettmers et al. 2023, arXiv 2305.14314): LoRA over frozen weights in 4 bits. Needs tutelage[qlora]."""

    kind: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    quant_type: Literal["nf4", "int4"] = Field(
        "nf4", description="4-bit NormalFloat, or 16 equal steps per block, which lose nothing of weights from a GGUF file in Q4_1",
    )  # fmt: skip
    double_quant: bool = Field(
        True, description="quantise the scales too: nf4 takes 4.127 bits per weight instead of 4.5"
    )
    block_size: Literal[16, 32, 64, 128, 256, 512, 1024] = Field(
        64, description="weights that share a scale; 32 where quant_type is int4 and nothing is said"
    )
    calibrate: int = Field(
        0, ge=0, description="round the weights by what this many training rows do to them (GPTQ, arXiv 2210.17323); 0: to "
        "the nearest value",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _blocks_of_gguf(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("quant_type") == "int4":
            return {"block_size": 32, **given}
        return given

    @model_validator(mode="after")
    def _only_nf4_is_calibrated(self) -> "QloraSpec":
        if self.calibrate and self.quant_type != "nf4":
            raise ValueError("calibrate: only quant_type: nf4 is rounded by what rows do to it")
        return self
