"""How much memory this process may still take, and what a forward pass keeps for its backward pass: read and counted."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
PAGE_CACHE = ("inactive_file", "active_file", "total_inactive_file", "total_active_file")  # given back when needed


@dataclass(frozen=True)
class Room:
    """Bytes that this process may still take, and what says so. Behind a hard limit it fails or is killed."""

    bytes: int
    source: str
    hard: bool


def room(proc: Path = PROC, cgroups: Path = CGROUPS) -> Room | None:
    """The narrowest of RLIMIT_AS, the cgroups (v1 and v2) that this process is in, and the machine's free memory."""
    found = [*_rlimit(proc), *_cgroup_rooms(proc, cgroups), *_machine(proc)]
    return min(found, key=lambda each: each.bytes, default=None)


def _rlimit(proc: Path) -> Iterator[Room]:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield Room(max(0, limit - _field(proc / "self" / "status", "VmSize:")), "RLIMIT_AS", True)


def _machine(proc: Path) -> Iterator[Room]:
    free = _field(proc / "meminfo", "MemAvailable:")
    if free:
        yield Room(free, "free memory", False)


def _cgroup_rooms(proc: Path, cgroups: Path) -> Iterator[Room]:
    """One per cgroup with a limit, from the process's own up to the root; in a container the own one is the root."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            limit, used = (_text(folder / name).strip() for name in names)
            if limit.isdigit() and used.isdigit() and int(limit) < 2**60:  # v1 says "no limit" with a huge number
                stat = dict(each.split(" ", 1) for each in _text(folder / "memory.stat").splitlines())
                prefix = "total_" if controllers else ""
                cache = sum(int(stat.get(name, 0)) for name in PAGE_CACHE if name.startswith(prefix or ("in", "ac")))
                yield Room(max(0, int(limit) - int(used) + cache), f"cgroup {folder}", True)
            if folder == root:
                break


def _field(file: Path, name: str) -> int:
    """A `Name:  123 kB` line in bytes; 0 without one."""
    for line in _text(file).splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


@dataclass
class Kept:
    """Bytes of the tensors that autograd saved, each storage once, and of the largest; those of the model do not count."""

    bytes: int = 0
    largest: int = 0
    seen: set[int] = field(default_factory=set)


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[Kept]:
    """Counts what the graph of `model` that is built inside saves for its backward pass."""
    kept = Kept(seen={tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())})

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept.seen:
            kept.seen.add(storage.data_ptr())
            kept.bytes += storage.nbytes()
            kept.largest = max(kept.largest, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
