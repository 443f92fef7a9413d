"""What limits a process is found wherever it stands, and what a graph keeps is counted."""

from pathlib import Path

import pytest
import torch

from tutelage.engine.memory import room, saved_bytes
from tutelage.errors import is_out_of_memory

MIB = 2**20


def machine(folder: Path, cgroup: str, free: int = 4000) -> tuple[Path, Path]:
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "self" / "status").write_text("VmSize:\t  1024 kB\n")
    (proc / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:  {free * 1024} kB\n")
    cgroups.mkdir()
    return proc, cgroups


def limited(folder: Path, limit: str, used: int, stat: str, v1: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if v1 else ("memory.max", "memory.current")
    for name, text in zip((*names, "memory.stat"), (limit, str(used * MIB), stat)):
        (folder / name).write_text(text + "\n")


def test_the_narrowest_cgroup_counts_and_page_cache_does_not(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, "0::/user/job\n")
    stat = f"anon 5\ninactive_file {100 * MIB}\nactive_file {50 * MIB}"
    limited(cgroups / "user" / "job", "max", 300, stat)
    limited(cgroups / "user", str(1000 * MIB), 700, stat)
    found = room(proc, cgroups)
    assert found is not None
    assert (found.bytes, found.hard) == (450 * MIB, True)
    assert found.source.endswith("/user")


def test_version_1_and_a_container_whose_own_cgroup_is_the_root(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n")
    limited(
        cgroups / "memory", str(600 * MIB), 200, f"total_inactive_file {20 * MIB}\ninactive_file {90 * MIB}", v1=True
    )
    found = room(proc, cgroups)
    assert found is not None
    assert found.bytes == 420 * MIB


def test_without_a_limit_it_is_the_free_memory(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, "4:memory:/\n0::/\n", free=77)
    limited(cgroups / "memory", str(2**63 - 4096), 5, "", v1=True)
    found = room(proc, cgroups)
    assert found is not None
    assert (found.bytes, found.source, found.hard) == (77 * MIB, "free memory", False)
    assert room(tmp_path / "no", tmp_path / "no") is None


def test_what_a_graph_saves_is_counted_once_and_without_the_weights() -> None:
    layer = torch.nn.Linear(8, 8, bias=False)
    x = torch.randn(4, 8, requires_grad=True)
    with saved_bytes(layer) as kept:
        y = layer(x)  # saves x
        (y * y).sum()  # saves y, twice
    assert (kept.bytes, kept.largest) == (2 * 4 * 8 * 4, 4 * 8 * 4)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), RuntimeError("std::bad_alloc"), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("could not create a primitive"), OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)  # fmt: skip
def test_missing_memory_has_many_names(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_a_real_failed_allocation_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
