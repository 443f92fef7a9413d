"""AdamW over fp32 masters, its learning-rate schedule, and clipping."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tutelage.errors import ChangedRunError, CheckFailedError
from tutelage.recipe import OptimSpec


def learning_rate(spec: OptimSpec, step: int, total: int) -> float:
    """The rate of step `step` (counted from 0) of `total`: linear warm-up, then cosine or linear to 0, or constant."""
    warmup = round(spec.warmup * total)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    if spec.schedule == "constant":
        return spec.learning_rate
    progress = (step - warmup) / max(1, total - warmup)
    factor = 0.5 * (1 + math.cos(math.pi * progress)) if spec.schedule == "cosine" else 1 - progress
    return spec.learning_rate * factor


class Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) whose state and weights are fp32 whatever the model computes in.

    A parameter stored in less than fp32 gets an fp32 master; its gradients are added up in fp32 across micro-batches.
    Matrices decay, biases and norm weights (one dimension) do not.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: OptimSpec) -> None:
        self.spec = spec
        self.parameters = dict(parameters)
        self.masters: dict[str, Tensor] = {}
        self.buffers: dict[
            str, Tensor
        ] = {}  # a master's gradient between steps: new memory at each costs its page faults
        for name, parameter in self.parameters.items():
            exact = parameter.dtype in (torch.float32, torch.float64)
            self.masters[name] = parameter if exact else parameter.detach().float().requires_grad_(True)
            if not exact:
                parameter.register_post_accumulate_grad_hook(self._into_master(name))  # type: ignore[no-untyped-call]
        decay = [m for m in self.masters.values() if m.dim() > 1]
        plain = [m for m in self.masters.values() if m.dim() <= 1]
        groups = [{"params": decay, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=spec.learning_rate,
            betas=spec.betas,
            eps=spec.eps,
            fused=not any(master.is_meta for master in self.masters.values()),  # a sketch: same state, no kernel
        )

    def bytes(self) -> int:
        """What is held beside the model's own parameters: masters, and those moments that are there already."""
        masters = sum(m.nbytes for name, m in self.masters.items() if m is not self.parameters[name])
        return masters + sum(m.numel() * 8 for m in self.masters.values() if self.adam.state.get(m))

    def reserve(self) -> None:
        """Make Adam's moments now, so that no update can run out of memory half-way."""
        for master in self.masters.values():
            if not self.adam.state.get(master):
                self.adam.state[master] = {
                    "step": torch.zeros((), dtype=torch.float32, device=master.device),
                    "exp_avg": torch.zeros_like(master), "exp_avg_sq": torch.zeros_like(master),
                }  # fmt: skip

    def _into_master(self, name: str):  # type: ignore[no-untyped-def]
        def move(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            assert gradient is not None
            master = self.masters[name]
            if master.grad is None:
                if name not in self.buffers:
                    self.buffers[name] = torch.empty_like(master)
                master.grad = self.buffers[name].copy_(gradient)
            else:
                master.grad.add_(gradient)

        return move

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for name, parameter in self.parameters.items():
            parameter.grad = None
            self.masters[name].grad = None

    def gradient_norm(self) -> float:
        """The L2 norm over all gradients."""
        gradients = [m.grad for m in self.masters.values() if m.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def step(self, rate: float, norm: float) -> None:
        """One update at learning rate `rate` with gradients of norm `norm` clipped; refuses a non-finite norm."""
        if not math.isfinite(norm):
            raise CheckFailedError(
                "the gradient is not finite", why=f"its norm is {norm}; the weights are unchanged",
                fix="lower optim.learning_rate, or set precision: fp32",
            )  # fmt: skip
        if norm > self.spec.max_grad_norm:
            factor = self.spec.max_grad_norm / norm
            torch._foreach_mul_([m.grad for m in self.masters.values() if m.grad is not None], factor)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.zero_grad()
        self._publish()

    def _publish(self) -> None:
        """Copy masters into the parameters that the model computes with."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """Masters and Adam's moments as named tensors, for a checkpoint."""
        tensors: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            tensors[f"master.{name}"] = master.detach()
            for key, value in self.adam.state.get(master, {}).items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def load(self, tensors: Mapping[str, Tensor], *, moments: bool = True) -> None:
        """Take over what `state` gave; without `moments` only the weights."""
        wrong = [n for n, m in self.masters.items() if getattr(tensors.get(f"master.{n}"), "shape", None) != m.shape]
        if wrong:
            raise ChangedRunError(
                f"the checkpoint does not fit this run: `{wrong[0]}` is missing or has another shape",
                why="it was written by another method, rank or model", fix="choose another `out`",
            )  # fmt: skip
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(tensors[f"master.{name}"])
                if moments and f"step.{name}" in tensors:
                    self.adam.state[master] = {
                        key: tensors[f"{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
                    }
        self._publish()
