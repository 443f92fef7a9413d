"""The verb `doctor`: what this machine has, and whether it is enough."""

import locale
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from tutelage.engine.precision import BF16_GAIN, measure_gflops
from tutelage.models.cache import cache_root

GIB = 2**30
MEASURE_SECONDS = 0.3
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(?:\[[^]]*\])?\s*>=\s*(?P<floor>\d+(?:\.\d+)*)")
EXTRA = re.compile(r"extra\s*==\s*['\"]([\w.-]+)['\"]")
CPU_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. FAIL: tutelage will not work; WARN: it will be slower or something is missing."""

    name: str
    status: Literal["PASS", "WARN", "FAIL"]
    found: str
    fix: str = ""


def doctor() -> dict[str, Any]:
    """`checks`, each with `name`, `status` (PASS, WARN or FAIL), `found` and `fix`; `ok` is false where one FAILs."""
    cache, needed = cache_root(), requirements()
    checks = [
        python(), *packages(needed), processor(), *rates(), cores(), memory(memory_limit()), gpu(),
        disk("disk at the model cache", cache), disk("disk here", Path()), writable("model cache", cache),
        sync_time(Path()), hub(), text_encoding(), *extras(needed),
    ]  # fmt: skip
    return {"ok": all(check.status != "FAIL" for check in checks), "checks": checks}


def requirements() -> list[str]:
    """What tutelage needs: as its metadata say it, or its pyproject.toml where it runs without being installed."""
    try:
        return metadata.requires("tutelage") or []
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        if not project.is_file():
            return []
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        optional = table.get("optional-dependencies", {})
        return [*table["dependencies"], *(f"{text}; extra == '{e}'" for e, texts in optional.items() for text in texts)]


def python() -> Check:
    """Python's version; older ones than 3.11 cannot even import this file's package."""
    return Check("python", "PASS", f"{platform.python_version()} ({platform.system()} {platform.machine()})")


def packages(needed: list[str]) -> list[Check]:
    """One check per required package against its floor."""
    if not needed:
        why = "tutelage is not installed as a package, so its floors are unknown"
        return [Check("packages", "WARN", why, "pip install -e . in the folder with pyproject.toml")]
    return [package(match["name"], match["floor"]) for text in needed
            if not EXTRA.search(text) and (match := REQUIREMENT.match(text))]  # fmt: skip


def package(name: str, floor: str) -> Check:
    """Whether the installed `name` is at least `floor`."""
    fix = f"pip install --upgrade '{name}>={floor}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "FAIL", f"not installed (needs {floor} or newer)", fix)
    if numbers(version) < numbers(floor):
        return Check(name, "FAIL", f"{version} (needs {floor} or newer)", fix)
    return Check(name, "PASS", version)


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end: 2.13.0+cpu is (2, 13)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in match[0].split(".")] if match else [0]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def processor() -> Check:
    """The vector instructions that torch's kernels can use."""
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info.read_text(errors="replace"), re.MULTILINE)
        flags = set(line[1].split()) if line else set()
    names = [name for flag, name in CPU_FLAGS.items() if flag in flags]
    level = torch.backends.cpu.get_cpu_capability()
    found = f"torch uses {level}" + (f"; has {', '.join(names)}" if names else "")
    if platform.machine() in ("x86_64", "AMD64") and level == "DEFAULT":
        return Check("processor", "WARN", found, "nothing to do: without AVX2 training is several times slower")
    return Check("processor", "PASS", found)


def rates() -> list[Check]:
    """How fast matrix products are in fp32 and bf16, measured; `precision: auto` decides by the same measure."""
    single = measure_gflops(torch.float32, seconds=MEASURE_SECONDS)
    half = measure_gflops(torch.bfloat16, seconds=MEASURE_SECONDS)
    chosen = "bf16" if half > BF16_GAIN * single else "fp32"
    return [
        Check("matmul fp32", "PASS" if single >= 20 else "WARN", f"{single:,.0f} GFLOP/s",
              "" if single >= 20 else "close what else is running; is this a shared or throttled machine?"),
        Check("matmul bf16", "PASS", f"{half:,.0f} GFLOP/s: on this processor `precision: auto` is {chosen}"),
    ]  # fmt: skip


def cores() -> Check:
    """The cores that this process may use, by affinity and by the control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = _control_group("cpu.max") or ""
    quota, _, period = text.partition(" ")
    if quota.isdigit() and period.isdigit() and int(quota) / int(period) < count:
        share = int(quota) / int(period)
        fix = f"set `threads: {max(1, round(share))}` in the recipe"
        return Check("cores", "WARN", f"{count}, but a quota allows {share:.1f}", fix)
    return Check("cores", "PASS", str(count))


def memory_limit() -> tuple[int, int]:
    """(bytes in all, bytes free), both no more than the control group allows."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = Path("/proc/meminfo")
    match = re.search(r"^MemAvailable:\s*(\d+) kB", info.read_text(), re.MULTILINE) if info.is_file() else None
    free = int(match[1]) * 1024 if match else total
    limit = _control_group("memory.max") or _first_line(Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")) or ""
    used = _control_group("memory.current") or _first_line(Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")) or "0"
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        free = min(free, total - int(used))
    return total, max(free, 0)


def _control_group(name: str) -> str | None:
    """The file `name` of this process's control group (version 2), or of the nearest one above that has it."""
    root = Path("/sys/fs/cgroup")
    own = re.search(r"^0::/(.*)$", _text(Path("/proc/self/cgroup")) or "", re.MULTILINE)
    for folder in (root / own[1], *(root / own[1]).parents) if own else (root,):
        if (line := _first_line(folder / name)) not in (None, "max"):
            return line
        if folder == root:
            break
    return None


def _first_line(path: Path) -> str | None:
    text = _text(path)
    return text.split("\n", 1)[0].strip() if text else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def memory(sizes: tuple[int, int]) -> Check:
    """Whether a small model can be tuned in the memory that is free."""
    total, free = sizes
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < 1.5 * GIB:
        return Check("memory", "FAIL", found, "the smallest model needs about 1.5 GiB: close other programs")
    if free < 4 * GIB:
        return Check("memory", "WARN", found, "choose a small model, method: lora and a small max_tokens")
    return Check("memory", "PASS", found)


def gpu() -> Check:
    """The GPU that torch can use, if there is one."""
    if torch.cuda.is_available():
        return Check("gpu", "PASS", str(torch.cuda.get_device_name()))
    return Check("gpu", "PASS", "none: the processor is used")


def disk(name: str, folder: Path) -> Check:
    """Free space where `folder` is, or will be."""
    place = _existing(folder)
    free = shutil.disk_usage(place).free / GIB
    found = f"{free:.1f} GiB free at {place.resolve()}"
    if free < 1:
        return Check(name, "FAIL", found, "free some space: a small model and its checkpoints take 1 GiB")
    return Check(
        name, "WARN" if free < 5 else "PASS", found, "models above 1B parameters need more" if free < 5 else ""
    )


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def writable(name: str, folder: Path) -> Check:
    """Whether a file can be made in `folder`, or in the folder where it will be made."""
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check(
            name, "FAIL", f"cannot write into {place}: {error.strerror}", "set TUTELAGE_CACHE to another folder"
        )
    return Check(name, "PASS", f"{folder}" + ("" if folder.is_dir() else " (made at the first fetch)"))


def sync_time(folder: Path) -> Check:
    """How long it takes until a megabyte is safe on this folder's disk: each checkpoint waits for that."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(2**20))
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            seconds = time.perf_counter() - start
    except OSError as error:
        return Check("run folder", "FAIL", f"cannot write here: {error.strerror}", "change into a folder of your own")
    slow = seconds > 0.5
    found = f"writable here; 1 MiB is safe after {seconds * 1000:.0f} ms"
    return Check("run folder", "WARN" if slow else "PASS", found, "put `out` on a local disk" if slow else "")


def hub() -> Check:
    """Whether the hub will be asked for models."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return Check("hub", "PASS", "HF_HUB_OFFLINE is set: only folders, the cache and wheels are used")
    return Check("hub", "PASS", "asked where a model is not here yet; HF_HUB_OFFLINE=1 switches it off")


def text_encoding() -> Check:
    """Whether files and the terminal are UTF-8."""
    names = {locale.getpreferredencoding(False), sys.getfilesystemencoding(), sys.stdout.encoding or "utf-8"}
    others = sorted({name for name in names if name.lower().replace("-", "").replace("_", "") != "utf8"})
    if others:
        return Check("text encoding", "WARN", ", ".join(others), "export PYTHONUTF8=1")
    return Check("text encoding", "PASS", "UTF-8")


def extras(needed: list[str]) -> list[Check]:
    """One check per optional extra: whether all its packages are here."""
    wanted: dict[str, list[str]] = {}
    for text in needed:
        if (extra := EXTRA.search(text)) and extra[1] != "dev" and (name := re.match(r"[\w.-]+", text)):
            wanted.setdefault(extra[1], []).append(name[0])
    checks = []
    for extra_name, names in sorted(wanted.items()):
        missing = [name for name in names if not _installed(name)]
        found = f"missing {', '.join(missing)}" if missing else "installed"
        fix = f"pip install 'tutelage[{extra_name}]' if you want it" if missing else ""
        checks.append(Check(f"extra {extra_name}", "WARN" if missing else "PASS", found, fix))
    return checks


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return find_spec(name.replace("-", "_")) is not None
    return True
