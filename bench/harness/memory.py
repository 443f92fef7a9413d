"""Peak memory of a command: the high-water mark of anonymous resident memory of its process tree, sampled at 20 Hz."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """How a command ended (None: stopped at its time limit), its peak in MiB, and how often it was looked at."""

    returncode: int | None
    peak_mib: float
    samples: int
    seconds: float


def run_measured(command: list[str], log: Path, environment: dict[str, str], timeout: float | None = None) -> Measured:
    """Run `command` to its end, or for `timeout` seconds, with its output in the file `log`, and measure it."""
    start, peak, samples = time.monotonic(), 0.0, 0
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                peak, samples = max(peak, tree_mib(process.pid)), samples + 1
                if timeout and time.monotonic() - start > timeout:
                    process.kill()
                    process.wait()
                    return Measured(None, peak, samples, time.monotonic() - start)
                time.sleep(SAMPLE_SECONDS)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return Measured(process.returncode, peak, samples, time.monotonic() - start)


def tree_mib(pid: int) -> float:
    """Anonymous resident memory of `pid` and all its descendants now."""
    total, todo = 0.0, [pid]
    while todo:
        at = todo.pop()
        total += anonymous_mib(at)
        todo += children(at)
    return total


def anonymous_mib(pid: int) -> float:
    """RssAnon of one process; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0.0)


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` has started and that are not reaped."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended between two reads
    return found
