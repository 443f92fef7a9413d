"""Mutated GGUF and safetensors models, each opened in a child process: no traceback, no hang, no memory, one sentence.

    python bench/hostile/models.py [--gguf 1000] [--safetensors 1000] [--json 1000] [--keep /tmp/bad]

Passes where no mutant gives a traceback, takes over 2 s or grows memory by over 100 MB, and every refusal names the file
with a byte, tensor or key, and a fix.
"""

import argparse
import collections
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from mutants import write_mutant
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "correctness"))
from tiny import LENGTHS, make_tokenizer, row

from tutelage.export.gguf_file import write_gguf
from tutelage.export.types import Source
from tutelage.methods.opening import load_located, locate

SECONDS, MEGABYTES, KILLED = 2.0, 100, 60
SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "max_position_embeddings": 512, "initializer_range": 0.15, "query_pre_attn_scalar": 16, "sliding_window": None,
}  # fmt: skip
# What stands behind the path: a byte, a key or tensor, or (for what is not there at all) a file of the folder.
PLACE = re.compile(r"^:(byte|line) \d+|^: .+|^(/[\w.@-]+)+(:(byte|line) \d+|: .+)?$|^$")


def make_sound(folder: Path) -> None:
    """The sound models: a folder, and GGUF files of three families and several types."""
    for kind, precision in (
        ("llama", "f32"),
        ("llama", "q8_0"),
        ("qwen3", "f16"),
        ("gemma", "q4_0"),
        ("qwen2", "bf16"),
    ):
        model = folder / ("folder" if (kind, precision) == ("llama", "f32") else f"{kind}-{precision}")
        torch.manual_seed(1)
        made = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SIZES))
        made.save_pretrained(model)
        make_tokenizer([row(i, 3, length) for i, length in enumerate(LENGTHS)]).save_pretrained(model)
        opened = load_located(locate(str(model)), torch.float32, merge=False)
        source = Source(locate(str(model)), opened.model, opened.tokenizer, opened.template)
        write_gguf(source, folder / f"{kind}-{precision}.gguf", precision)


class Victim:
    """The child process, started again where it had to be killed."""

    def __init__(self, cache: Path) -> None:
        self.environment = {**os.environ, "TUTELAGE_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.process: subprocess.Popen[str] | None = None

    def open(self, path: Path) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, str(Path(__file__).with_name("victim.py"))]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=self.environment,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(path, file=self.process.stdin, flush=True)
        if select.select([self.process.stdout], [], [], KILLED)[0] and (line := self.process.stdout.readline()):
            result: dict[str, Any] = json.loads(line)
            return result
        self.process.kill()
        code = self.process.wait()
        self.process = None
        return {
            "kind": "killed",
            "problems": [[f"no answer, code {code}"]],
            "seconds": float(KILLED),
            "wall_seconds": float(KILLED),
            "grown_mib": 0.0,
        }

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def complaints(path: Path, result: dict[str, Any]) -> list[str]:
    """What is wrong with how one mutant was met."""
    found = []
    if result["kind"] not in ("opened", "refused"):
        found.append(f"{result['kind']}: {result['problems'][0][0]}")
    if result["seconds"] > SECONDS:
        found.append(f"it took {result['seconds']:.1f} s")
    if result["grown_mib"] * 2**20 > MEGABYTES * 1e6:
        found.append(f"memory grew by {result['grown_mib']:.0f} MiB")
    # What a GGUF file became is named where the fault shows in what was converted: a chat template.
    places = [path, *path.parents[1].glob("cache/*"), path.parents[1] / "cache"]
    for what, where, why, fix in result["problems"] if result["kind"] == "refused" else ():
        placed = any(where.startswith(str(p)) and PLACE.match(where.removeprefix(str(p))) for p in places)
        if not what or not placed or not fix:
            found.append(f"no place or fix: {what!r} at {where!r} ({why!r}), fix {fix!r}")
    return found


def run(wanted: dict[str, int], keep: Path | None = None, first: int = 0) -> dict[str, Any]:
    """Open `wanted` mutants of each kind and count what came of it."""
    counts: collections.Counter[str] = collections.Counter()
    bad: list[str] = []
    slowest = longest = grown = 0.0
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        work = Path(name)
        make_sound(work)
        victim = Victim(work / "cache")
        victim.open(work / "folder")  # imports and first uses are paid before
        for path in sorted(work.glob("*.gguf")):
            assert victim.open(path)["kind"] == "opened", victim.open(path)
        for kind, count in wanted.items():
            for seed in range(first, first + count):
                target = work / f"{kind}-{seed}"
                target.mkdir()
                path = write_mutant(kind, seed, work, target)
                result = victim.open(path)
                counts[f"{kind} {result['kind']}"] += 1
                slowest, grown = max(slowest, result["seconds"]), max(grown, result["grown_mib"])
                longest = max(longest, result["wall_seconds"])
                said = complaints(path, result)
                bad += [f"{kind} {seed}: {text}" for text in said]
                if said and keep is not None:
                    print("\n".join(bad[-len(said) :]), file=sys.stderr, flush=True)
                if said and keep is not None:
                    shutil.copytree(target, keep / target.name, dirs_exist_ok=True)
                shutil.rmtree(target)
        victim.close()
    return {"mutants": sum(wanted.values()), "counts": dict(counts), "complaints": bad,
            "slowest_seconds": round(slowest, 3), "slowest_wall_seconds": round(longest, 3),
            "largest_growth_mib": round(grown, 1)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for kind in ("gguf", "safetensors", "json"):
        parser.add_argument(f"--{kind}", type=int, default=1000, help=f"how many {kind} mutants")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--keep", type=Path, help="keep the mutants that were met badly here")
    given = parser.parse_args()
    wanted = {"gguf": given.gguf, "safetensors": given.safetensors, "json": given.json}
    result = run(wanted, given.keep, given.first)
    if given.keep is None:
        print("\n".join(result["complaints"][:200]), file=sys.stderr)
    print(json.dumps({**result, "complaints": len(result["complaints"])}))
    sys.exit(bool(result["complaints"]))


if __name__ == "__main__":
    main()
