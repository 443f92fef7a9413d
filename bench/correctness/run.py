"""The same checks in ours and in the peers as installed: python bench/correctness/run.py [--tools …]

→ results/correctness.json. Each check is a process of its own, with the tool's documented entry point and its defaults, on
a tiny model in fp32. No tool is read from its sources here: what it fed its model and its optimiser is looked at.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))

from harness import results  # noqa: E402
from harness.contenders import beside, environment, peer_python  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import MARKS, make  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

HERE = Path(__file__).resolve().parent
TOOLS = ("tutelage", "trl", "litgpt", "llamafactory")
IGNORED, KILL_AT, SHORT = -100, 6, 256
EQUAL = 1e-4  # relative difference of two fp32 gradients that are the same sum in another order
SAYS_SO = re.compile(r"truncat|dropp|too long|over the limit|exceed|longer than|\bcut\b", re.IGNORECASE)


class NotOffered(Exception):
    """The tool has no such thing."""


class Probe:
    """Runs the probe of one tool and reads what it wrote."""

    def __init__(self, tool: str, options: argparse.Namespace) -> None:
        self.tool, self.options = tool, options
        self.python = sys.executable if tool == "tutelage" else str(peer_python(options.peers, tool))
        self.version = ""
        self.known: dict[str, dict[str, Any]] = {}

    def once(self, case: str) -> dict[str, Any]:
        """A case of full fine-tuning that nothing interrupts, run once however many checks look at it."""
        if case not in self.known:
            self.known[case] = self.run(case)
        return self.known[case]

    def run(self, case: str, method: str = "full", die_at: int | None = None) -> dict[str, Any]:
        """One process; its result, log and tensors."""
        work = self.options.work
        out = work / self.tool / f"out-{method}-{case}"
        shutil.rmtree(out, ignore_errors=True)
        if case not in ("resumed",):
            shutil.rmtree(work / self.tool / f"{self.tool}-{method}-{case}", ignore_errors=True)
        arguments = [self.python, str(HERE / f"probe_{self.tool}.py"), "--case", case, "--work", str(work)]
        arguments += ["--out", str(out), "--method", method, *(["--die-at", str(die_at)] if die_at else [])]
        print("$", " ".join(arguments), file=sys.stderr, flush=True)
        out.mkdir(parents=True)
        log = out / "log"
        with open(log, "w", encoding="utf-8") as output:
            done = subprocess.run(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment(1), timeout=1200)
        text = log.read_text(encoding="utf-8", errors="replace")
        if die_at:
            if done.returncode != 9:
                raise RuntimeError(f"was to be killed, ended with {done.returncode}: {text[-300:]}")
            return {}
        if done.returncode:
            raise RuntimeError(text.strip().splitlines()[-1][:200] if text.strip() else f"ended with {done.returncode}")
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        self.version = result["version"]
        tensors = load_file(out / "tensors.safetensors") if (out / "tensors.safetensors").is_file() else {}
        return {**result, "log": text, "tensors": tensors}


def differ(one: dict[str, Any], other: dict[str, Any], name: str) -> float:
    """‖a - b‖ / ‖a‖ of a tensor of two results; a zero tensor proves nothing and is an error."""
    a, b = one["tensors"][name].double(), other["tensors"][name].double()
    if a.norm() == 0:
        raise RuntimeError(f"the {name} is zero")
    return float((a - b).norm() / a.norm())


def finding(good: bool | None, said: str, **figures: Any) -> dict[str, Any]:
    """One cell of the table."""
    return {"good": good, "said": said, **figures}


def accumulation(probe: Probe) -> dict[str, Any]:
    """Is the gradient of 8 rows in one batch that of 8 accumulated rows of unequal lengths?"""
    difference = differ(probe.once("batch"), probe.once("accumulated"), "gradient")
    good = difference < EQUAL
    return finding(good, f"{'equal' if good else 'differs'} ({difference:.1e})", relative_difference=difference)


def packing(probe: Probe) -> dict[str, Any]:
    """Is the gradient of 8 packed rows that of the same rows apart?"""
    if probe.tool == "litgpt":
        raise NotOffered("no packing for fine-tuning")
    apart = probe.once("accumulated" if probe.tool == "tutelage" else "batch")  # ours packs a batch whenever it fits
    found = {case: differ(apart, probe.once(case), "gradient") for case in packing_cases(probe.tool)}
    good = next(iter(found.values())) < EQUAL
    said = "; ".join(f"{case}: {'equal' if d < EQUAL else 'differs'} ({d:.1e})" for case, d in found.items())
    return finding(good, said, relative_difference=found)


def packing_cases(tool: str) -> list[str]:
    """The ways of packing that the tool has, its default one first."""
    return {"llamafactory": ["packed", "neat-packed"], "trl": ["packed", "padding-free"]}.get(tool, ["packed"])


def trained(probe: Probe) -> dict[str, Any]:
    """Whose text has a loss by default?"""
    text = trained_text(probe)
    roles = [role for role, mark in MARKS.items() if mark in text]
    return finding(roles == ["assistant"], ", ".join(roles) or "nothing", text=text)


def end_of_turn(probe: Probe) -> dict[str, Any]:
    """Is the token that ends the answer trained by default?"""
    behind = trained_text(probe).partition(MARKS["assistant"])[2]
    return finding(behind.startswith("<|im_end|>"), "yes" if behind.startswith("<|im_end|>") else "no", behind=behind)


def trained_text(probe: Probe) -> str:
    """The text of the labelled tokens of the first row that the model was given."""
    tokenizer = Tokenizer.from_file(str(probe.options.work / "model" / "tokenizer.json"))
    first = probe.once("tokens")["rows"][0]
    ids = [token for token, label in zip(first["ids"], first["labels"]) if label != IGNORED]
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def over_long(probe: Probe) -> dict[str, Any]:
    """Two of 8 rows are longer than the limit: one answer runs over it, one question alone does."""
    result = probe.once("long")
    rows = result["rows"]
    lengths = [len(row["ids"]) for row in rows]
    cut = sum(length == SHORT for length in lengths)
    no_end = sum(2 not in [t for t, label in zip(r["ids"], r["labels"]) if label != IGNORED][-2:] for r in rows)
    empty = sum(all(label == IGNORED for label in row["labels"][1:]) for row in rows)
    said = told_of(result["log"], probe.once("tokens")["log"])
    named = result.get("dropped", [])
    what = f"{len(rows)} of 8 rows trained, {cut} cut to the limit, {no_end} without a trained end, {empty} without a target"
    told = f"each named ({len(named)})" if named else ("a line in the log" if said else "silent")
    return finding(bool(named or said) and no_end == 0, f"{what}; {told}", lengths=lengths, line=said, dropped=named)


def told_of(log: str, without: str) -> str | None:
    """The first line about cutting or dropping that a log has, and that the log of rows within the limit has not."""

    def plain(line: str) -> str:
        return re.sub(r"[^a-z ]", "", line.lower().partition(":")[0])

    usual = {plain(line) for line in re.split(r"[\r\n]", without)}
    lines = [line.strip() for line in re.split(r"[\r\n]", log) if SAYS_SO.search(line) and plain(line) not in usual]
    return lines[0][:160] if lines else None


def resume(probe: Probe) -> dict[str, Any]:
    """Killed before update 6 of 6, with a checkpoint of step 4, and continued: the weights of an uninterrupted run?"""
    found: dict[str, Any] = {}
    for method in ("lora", "full"):
        if probe.tool == "litgpt" and method == "lora":
            found[method] = "not offered"
            continue
        whole = probe.run("whole", method)
        probe.run("killed", method, die_at=KILL_AT)
        again = probe.run("resumed", method)
        a, b = whole["tensors"]["weights"], again["tensors"]["weights"]
        found[method] = {
            "bitwise": bool((a == b).all()),
            "largest": float((a - b).abs().max()),
            "steps": again["steps"],
        }
    said = "; ".join(f"{method}: {resume_said(value)}" for method, value in found.items())
    return finding(all(isinstance(v, dict) and v["bitwise"] for v in found.values()), said, found=found)


def resume_said(value: Any) -> str:
    """One method's outcome in words."""
    if isinstance(value, str):
        return value
    return "bitwise equal" if value["bitwise"] else f"differs by up to {value['largest']:.1e}"


CHECKS: dict[str, Callable[[Probe], dict[str, Any]]] = {
    "accumulation": accumulation, "packing": packing, "trained": trained, "end_of_turn": end_of_turn,
    "over_long": over_long, "resume": resume,
}  # fmt: skip


def main() -> None:
    """Run the chosen checks and merge what they found into the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--checks", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--peers", type=Path, default=beside("peers"))
    parser.add_argument("--work", type=Path, default=BENCH.parent / "runs" / "correctness")
    options = parser.parse_args()
    options.work = options.work.resolve()
    make(options.work)
    for tool in options.tools:
        probe = Probe(tool, options)
        for name in options.checks:
            try:
                found = CHECKS[name](probe)
            except NotOffered as reason:
                found = finding(None, str(reason))
            except (RuntimeError, KeyError, ValueError, subprocess.TimeoutExpired) as error:
                found = finding(None, f"could not be checked: {str(error)[:300]}", failed=True)
            print(f"{tool} {name}: {found['said']}", flush=True)
            keep(tool, name, probe.version, found)


def keep(tool: str, check: str, version: str, found: dict[str, Any]) -> None:
    """Merge one cell into the results."""
    known = results.load("correctness.json") or {"kind": "correctness", "tools": {}}
    cells = known["tools"].setdefault(tool, {"checks": {}})
    cells["version"] = version or cells.get("version", "")
    cells["checks"][check] = {**found, **{k: v for k, v in results.circumstances().items() if k in ("at", "commit")}}
    known["doc"] = {name: (check.__doc__ or "").strip() for name, check in CHECKS.items()}
    results.write("correctness.json", known)


if __name__ == "__main__":
    main()
