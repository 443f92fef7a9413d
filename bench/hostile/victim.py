"""Opens one model after the other, as a user's command would, and says of each what happened, in time and memory.

Reads a path a line from stdin and answers with one JSON line: `kind` (opened, refused, traceback), `problems`, `seconds`
(of this process on the CPU: others on the machine do not count), `wall_seconds`, `grown_mib` (the high-water mark of resident
memory above what was resident before).
"""

import gc
import json
import os
import re
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from tutelage.encode.template import Template
from tutelage.errors import TutelageError
from tutelage.models.describe import describe
from tutelage.models.fetch import fetch
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.ref import parse_ref


def memory(name: str) -> int:
    """VmHWM or RssAnon of this process, in KiB."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def open_all(path: Path) -> None:
    """Everything that `models describe`, `train`, `chat` do with a model before their first step."""
    describe(path)
    folder = fetch(parse_ref(str(path)), say=lambda text: None).path
    describe(folder)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, dtype=torch.float32)
    template = Template.of(tokenizer, eos_ids=model.generation_config.eos_token_id)
    ids = template.backend.encode("Is it 12 o'clock?\n").ids
    with torch.inference_mode():
        model(torch.tensor([ids[:16] or [0]]))


def answer(path: Path) -> dict[str, Any]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before, start, used = memory("VmHWM"), time.monotonic(), time.process_time()
    result: dict[str, Any] = {"kind": "opened", "problems": []}
    try:
        open_all(path)
    except TutelageError as error:
        result = {"kind": "refused", "problems": [[p.what, p.where, p.why, p.fix] for p in error.problems]}
    except BaseException as error:
        result = {"kind": "traceback", "problems": [[repr(error)[:300], "", traceback.format_exc()[-1500:], ""]]}
    seconds, wall = time.process_time() - used, time.monotonic() - start
    return {**result, "seconds": seconds, "wall_seconds": wall, "grown_mib": (memory("VmHWM") - before) / 1024}


def main() -> None:
    torch.set_num_threads(1)
    cache = Path(os.environ["TUTELAGE_CACHE"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not mix with the answers
    for line in sys.stdin:
        print(json.dumps(answer(Path(line.rstrip("\n")))), file=answers, flush=True)
        shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    main()
