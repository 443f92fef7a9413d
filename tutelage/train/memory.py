"""Peak memory: the high-water mark of anonymous resident memory, sampled by a thread."""

import ctypes
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType

SAMPLE_SECONDS = 0.05
STATUS = Path("/proc/self/status")


def anonymous_mib() -> float:
    """Anonymous resident memory of this process now; where the system does not tell, its resident high-water mark."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def give_back(above: float) -> None:
    """Return what the allocator has free to the system if this process holds more than `above` MiB.

    Micro-batches of ever new shapes leave gaps that the next one does not fit into. glibc gives back only what is free at
    the end of its heap; elsewhere nothing is done.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None and anonymous_mib() > above:
        trim(0)


class PeakMemory:
    """Samples `anonymous_mib` in the background between `with` and its end."""

    def __init__(self) -> None:
        self.mib = anonymous_mib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.mib = max(self.mib, anonymous_mib())

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = max(self.mib, anonymous_mib())
