"""AdamW over fp32 masters, its learning-rate schedule, and clipping."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tutelage.engine.rounding import Rounding, rounded
from tutelage.errors import ChangedRunError, CheckFailedError
from tutelage.recipe import OptimSpec
from tutelage.train.adamw_8bit import AdamW8bit, moments_8bit

PIECE = 1 << 20  # gradient values whose squares are summed at once, in their own dtype


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

    A parameter stored in less than fp32 gets an fp32 master, which bf16 is rounded from so that small changes show (`rounded`);
    its gradients are added up in fp32 across micro-batches.
    Matrices decay, biases and norm weights (one dimension) do not. Of a parameter in `rows` only those rows [R] train
    (`used_rows`): its master is them, and its gradient may be sparse.

    `faster` names those that learn so many times faster. `resting` parameters do not train now. They have masters, so that
    nothing that they learnt in an earlier round is rounded away, but neither gradients nor moments.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        spec: OptimSpec,
        resting: Mapping[str, nn.Parameter] | None = None,
        rows: Mapping[str, Tensor] | None = None,
        faster: Mapping[str, float] | None = None,
    ) -> None:
        self.spec = spec
        self.rows, self.faster = dict(rows or {}), dict(faster or {})
        self.masters: dict[str, Tensor] = {}
        # Masters' gradients between steps, parts of a tensor for each dtype and device: new memory at each costs its page
        # faults, and their norm one by one 1.2 % of a step of 105 small parameters.
        self.buffers: dict[str, Tensor] = {}
        self.whole_buffers: list[Tensor] = []
        self.hooks: dict[str, RemovableHandle] = {}
        self.roundings: dict[str, Rounding] = {}
        self.known = {**parameters, **(resting or {})}
        for name, parameter in self.known.items():
            exact = parameter.dtype in (torch.float32, torch.float64) and name not in self.rows
            self.masters[name] = parameter if exact else self._master(name, parameter)
        self.adam = self._train(parameters, {})

    def _train(self, parameters: Mapping[str, nn.Parameter], moments: Mapping[Tensor, Any]) -> torch.optim.Optimizer:
        """Let `parameters` train from now on, with those of the old `moments` that are theirs; all others are dropped."""
        self.parameters = dict(parameters)
        for name in [name for name in self.hooks if name not in parameters]:
            self.hooks.pop(name).remove()
        self.buffers, self.whole_buffers = {}, []
        masters = {name: self.masters[name] for name in parameters}
        for name, parameter in parameters.items():
            if masters[name] is not parameter and name not in self.hooks:
                self.hooks[name] = parameter.register_post_accumulate_grad_hook(self._into_master(name))  # type: ignore[no-untyped-call]
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, master in masters.items():
            decay = self.spec.weight_decay if master.dim() > 1 else 0.0
            groups.setdefault((self.faster.get(name, 1.0), decay), []).append(master)
        held = [{"params": each, "weight_decay": decay, "times": times} for (times, decay), each in groups.items()]
        common: dict[str, Any] = {"lr": self.spec.learning_rate, "betas": self.spec.betas, "eps": self.spec.eps}
        adam: torch.optim.Optimizer
        if self.spec.kind == "adamw_8bit":
            adam = AdamW8bit(held, **common)
        else:  # a sketch: same state, no kernel
            adam = torch.optim.AdamW(held, **common, fused=not any(master.is_meta for master in masters.values()))
        for master in masters.values():
            if moments.get(master):
                adam.state[master] = moments[master]
        return adam

    def redraw(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Let `parameters`, each known from the start, train in place of those before; between two steps."""
        self.zero_grad()
        self.adam = self._train(parameters, self.adam.state)
        self.reserve()

    @property
    def trained(self) -> list[Tensor]:
        """The masters of what trains now."""
        return [self.masters[name] for name in self.parameters]

    def bytes(self) -> int:
        """What is held beside the model's own parameters: masters, and those moments that are there already."""
        masters = sum(m.nbytes for name, m in self.masters.items() if m is not self.known[name])
        moments = [each for m in self.trained for each in self.adam.state.get(m, {}).values()]
        return int(masters + sum(each.nbytes for each in moments))

    def reserve(self) -> None:
        """Make Adam's moments now, so that no update can run out of memory half-way."""
        for master in self.trained:
            if not self.adam.state.get(master):
                self.adam.state[master] = self._moments(master)

    def _moments(self, master: Tensor) -> dict[str, Tensor]:
        if self.spec.kind == "adamw_8bit":
            return moments_8bit(master)
        step = torch.zeros((), dtype=torch.float32, device=master.device)
        return {"step": step, "exp_avg": torch.zeros_like(master), "exp_avg_sq": torch.zeros_like(master)}

    def _master(self, name: str, parameter: nn.Parameter) -> Tensor:
        values = parameter.detach()
        if name in self.rows:
            values = values[self.rows[name]]
        return values.to(torch.float64 if values.dtype == torch.float64 else torch.float32).requires_grad_(True)

    def _into_master(self, name: str):  # type: ignore[no-untyped-def]
        def move(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            assert gradient is not None
            master = self.masters[name]
            first = master.grad is None
            if first:
                self._reserve_buffers()
                master.grad = self.buffers[name]
            assert master.grad is not None
            if gradient.is_sparse:
                places = torch.searchsorted(self.rows[name], gradient._indices()[0])
                into = master.grad.zero_() if first else master.grad
                into.index_add_(0, places, gradient._values().to(into.dtype))
            elif first:
                master.grad.copy_(gradient)
            else:
                master.grad.add_(gradient)

        return move

    def _reserve_buffers(self) -> None:
        if self.buffers or not self.hooks:
            return
        kinds: dict[tuple[torch.dtype, torch.device], list[str]] = {}
        for name in self.hooks:
            kinds.setdefault((self.masters[name].dtype, self.masters[name].device), []).append(name)
        for (dtype, device), names in kinds.items():
            sizes = [self.masters[name].numel() for name in names]
            whole = torch.empty(sum(sizes), dtype=dtype, device=device)
            self.whole_buffers.append(whole)
            for name, part in zip(names, torch.split(whole, sizes)):
                self.buffers[name] = part.view(self.masters[name].shape)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for name, parameter in self.parameters.items():
            parameter.grad = None
            self.masters[name].grad = None

    def reserve_gradients(self, before: bool) -> None:
        """What gradients take when a later step begins: their buffers; with `before`, also as a micro-batch before left them."""
        self._reserve_buffers()
        for name in self.parameters:
            master = self.masters[name]
            if before:
                master.grad = self.buffers[name] if name in self.buffers else torch.empty_like(master)

    def gradient_norm(self) -> float:
        """The L2 norm over all gradients; by products with themselves, which take a quarter of the time of torch's norms."""
        for name, buffer in self.buffers.items():
            if self.masters[name].grad is None:  # what is in it is of an earlier step
                buffer.zero_()
        others = [self.masters[name].grad for name in self.parameters if name not in self.buffers]
        gradients = [*self.whole_buffers, *(gradient.reshape(-1) for gradient in others if gradient is not None)]
        pieces = [piece for gradient in gradients for piece in torch.split(gradient, PIECE)]
        return math.sqrt(torch.stack([piece.dot(piece) for piece in pieces]).sum()) if pieces else 0.0

    def step(self, rate: float, norm: float) -> None:
        """One update at learning rate `rate` with gradients of norm `norm` clipped; refuses a non-finite norm."""
        if not math.isfinite(norm):
            raise CheckFailedError(
                "the gradient is not finite", why=f"its norm is {norm}; the weights are unchanged",
                fix="lower optim.learning_rate, or set precision: fp32",
            )  # fmt: skip
        over = max(1.0, norm / self.spec.max_grad_norm)
        # torch's own kernel divides while it reads: a pass by itself takes 1 ms for 11 million values
        if self.adam.defaults.get("fused"):
            scale = torch.tensor(over, device=self.trained[0].device) if over > 1 else None
            self.adam.grad_scale = scale  # type: ignore[attr-defined]
        elif over > 1:
            torch._foreach_div_([m.grad for m in self.trained if m.grad is not None], over)
        for group in self.adam.param_groups:
            group["lr"] = rate * group["times"]
        self.adam.step()
        self.zero_grad()
        self._publish(self.parameters)

    def _publish(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Copy masters into the parameters that the model computes with."""
        with torch.no_grad():
            for name, parameter in parameters.items():
                master = self.masters[name]
                if name in self.rows:
                    rounds = parameter.dtype == torch.bfloat16
                    part = rounded(master, name) if rounds else master.to(parameter.dtype)
                    parameter.index_copy_(0, self.rows[name], part)
                elif master is not parameter:
                    self._publish_into(parameter, master, name)

    def _publish_into(self, stored: Tensor, master: Tensor, name: str) -> None:
        if master.is_meta or stored.dtype != torch.bfloat16 or not (stored.is_contiguous() and master.is_contiguous()):
            stored.copy_(master)
            return
        rounding = self.roundings.get(name)
        if rounding is None or rounding.place != (master.data_ptr(), stored.data_ptr()):
            rounding = self.roundings[name] = Rounding(master, name, stored)
        rounding()

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
                if moments and name in self.parameters and f"step.{name}" in tensors:
                    moments_of = self._moments(master)
                    self.adam.state[master] = {k: m.copy_(tensors[f"{k}.{name}"]) for k, m in moments_of.items()}
        self._publish(self.known)
