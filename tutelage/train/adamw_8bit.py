"""AdamW whose moments take a byte a value: blocks of 256 share an fp32 scale (Dettmers et al. 2022, arXiv 2110.02861 §2)."""

from typing import Any

import torch
from torch import Tensor

from tutelage.engine.nf4 import functional

BLOCK = 256  # values that share a scale: fixed in bitsandbytes' kernels
SMALLEST = 4096  # values; smaller tensors keep fp32 moments, as in bitsandbytes: norms and biases are sensitive
AT_ONCE = 1 << 20  # values of a call, whole blocks: it makes four fp32 copies of what it is given


def moments_8bit(master: Tensor) -> dict[str, Tensor]:
    """Adam's state before the first step."""
    step = torch.zeros((), dtype=torch.float32, device=master.device)
    if master.numel() < SMALLEST:
        return {"step": step, "exp_avg": torch.zeros_like(master), "exp_avg_sq": torch.zeros_like(master)}
    scales = master.new_zeros(-(-master.numel() // BLOCK), dtype=torch.float32)
    codes = torch.zeros_like(master, dtype=torch.uint8)
    return {
        "step": step, "exp_avg": codes, "exp_avg_scale": scales,
        "exp_avg_sq": codes.clone(), "exp_avg_sq_scale": scales.clone(),
    }  # fmt: skip


class AdamW8bit(torch.optim.Optimizer):
    """bitsandbytes' 8-bit AdamW, its kernel asked for a piece of a tensor at a time."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.maps: dict[torch.device, tuple[Tensor, Tensor]] = {}  # the values of the codes, signed and not
        functional()  # a sentence where it is missing, before anything is trained

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            for master in group["params"]:
                if master.grad is not None:
                    state: dict[str, Tensor] = self.state[master] or moments_8bit(master)
                    self.state[master] = state
                    state["step"] += 1
                    self._update(master, master.grad, state, group)

    def _update(self, master: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        ops, step, (beta1, beta2) = torch.ops.bitsandbytes, int(state["step"]), group["betas"]
        flat = [each.view(-1) for each in (gradient, master, state["exp_avg"], state["exp_avg_sq"])]
        common = (beta1, beta2, 0.0, 0.0, group["eps"])
        if "exp_avg_scale" not in state:
            ops.optimizer_update_32bit(
                "adam", *flat, None, 0.0, 0.0, *common, group["weight_decay"], step, group["lr"], 1.0, False
            )
            return
        scales, maps = (state["exp_avg_scale"], state["exp_avg_sq_scale"]), self._maps(master.device)
        for start in range(0, master.numel(), AT_ONCE):
            parts = [each[start : start + AT_ONCE] for each in flat]
            blocks = slice(start // BLOCK, (start + AT_ONCE) // BLOCK)
            ops.optimizer_update_8bit_blockwise(
                "adam", *parts, *common, step, group["lr"], *maps, *(each[blocks] for each in scales),
                group["weight_decay"], 1.0, False,
            )  # fmt: skip

    def _maps(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self.maps:
            make = functional().create_dynamic_map
            self.maps[device] = (make(signed=True).to(device), make(signed=False).to(device))
        return self.maps[device]
