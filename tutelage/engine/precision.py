"""What this machine does fastest, measured once; the result is frozen in the run's plan."""

import os
import time
from dataclasses import asdict, dataclass

import torch

# Kernels of products in bf16 that oneDNN may keep, one for each shape. A micro-batch needs up to 100; with AMX each takes 1
# to 3 MiB: its default, 1,024, had added 2 GiB to a 135M model after 30 steps. oneDNN reads this at its first product.
KERNELS = 192
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
MEASURE_SECONDS = 0.15
BF16_GAIN = 1.3  # bf16 must beat fp32 by this factor, or its rounding buys nothing


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """Everything that was chosen by looking at the machine. A resume obeys it: it decides the last bits of a run."""

    precision: str  # "fp32" | "bf16"
    device: str
    threads: int
    tokens: int  # the micro-batch budget
    share_prefix: bool
    packed: bool
    measured_gflops: dict[str, float]
    room_mib: int | None = None  # memory that was left to this process when the budget was chosen
    keep: str = (
        "all"  # what layers keep for the backward pass: "all", "attention" or "input"; the rest is computed again
    )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of frozen weights and activations."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def as_json(self) -> dict[str, object]:
        """The plan as it stands in manifest.json."""
        return asdict(self)


def measure_gflops(dtype: torch.dtype, device: str = "cpu", seconds: float = MEASURE_SECONDS) -> float:
    """GFLOP/s of a 512 x 512 x 1024 matrix product in `dtype`, the best of several repetitions.

    Small, because a processor without bf16 instructions needs 35 ms for even this one.
    """
    a = torch.randn(512, 1024, device=device).to(dtype)
    b = torch.randn(1024, 512, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    a @ b  # the first product starts the threads
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 512 * 512 * 1024 / best / 1e9


def choose_precision(wanted: str, device: str) -> tuple[str, dict[str, float]]:
    """The precision to run in, and the measured rates that decided it (none where the recipe decided)."""
    if wanted != "auto":
        return wanted, {}
    rates = {"fp32": measure_gflops(torch.float32, device), "bf16": measure_gflops(torch.bfloat16, device)}
    rates = {name: round(rate, 1) for name, rate in rates.items()}
    return ("bf16" if rates["bf16"] > BF16_GAIN * rates["fp32"] else "fp32"), rates


def device_name() -> str:
    """ "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
