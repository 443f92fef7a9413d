"""Estimates against runs: peak memory, with --time also seconds after a probe. To results/estimate.json, docs/estimate.md.

python bench/estimate/run.py            # what is not measured yet; memory figures hold on a busy machine too
python bench/estimate/run.py --time     # also the probe: on a quiet machine only
python bench/estimate/run.py estimates  # ask anew for the estimates of what was measured: after the formula was fitted
python bench/estimate/run.py table      # only write the table of docs/estimate.md anew
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.contenders import ROOT, environment, fresh, run
from harness.results import circumstances, load, our_versions, write

WORK = Path("/tmp/tutelage-estimate")
RESULT, DOC = "estimate.json", ROOT / "docs" / "estimate.md"
BEGIN, END = "<!-- runs: written by bench/estimate/run.py -->", "<!-- end of runs -->"
MODERN = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 8192, "vocab_size": 49152}
# Random weights at real shapes; the tokenizer is SmolLM2's. `dtype` is what the file holds.
MADE: dict[str, dict[str, Any]] = {
    "llama-45m": {"kind": "llama", "dtype": "float32", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12,
                  "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3-90m": {"kind": "qwen3", "dtype": "bfloat16", "hidden_size": 512, "intermediate_size": 1536,
                  "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
                  "tie_word_embeddings": False},
    "llama-380m": {"kind": "llama", "dtype": "bfloat16", "hidden_size": 1024, "intermediate_size": 3072,
                   "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "gpt2-45m": {"kind": "gpt2", "dtype": "float32", "n_embd": 384, "n_layer": 12, "n_head": 6, "n_positions": 2048},
    "t5-60m": {"kind": "t5", "dtype": "float32", "d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "d_kv": 64,
               "decoder_start_token_id": 0},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run. `length` is max_tokens, and what all rows have; with `varied`, rows have any number up to it."""

    model: str
    method: str
    length: int
    batch: int
    precision: str
    steps: int = 2
    varied: bool = False

    @property
    def name(self) -> str:
        name = f"{self.model}-{self.method}-{self.length}x{self.batch}-{self.precision}"
        return f"{name}-varied-{self.steps}" if self.varied else name


CASES = [
    *(Case("llama-45m", method, length, batch, "bf16") for method in ("lora", "full")
      for length, batch in ((128, 1), (128, 32), (512, 8), (2048, 1), (2048, 4))),
    *(Case("llama-45m", method, 512, 8, "fp32") for method in ("lora", "full")),
    *(Case("qwen3-90m", method, length, batch, "bf16") for method in ("lora", "full")
      for length, batch in ((128, 8), (512, 8), (2048, 1))),
    *(Case("smollm2-135m", method, length, batch, "bf16") for method in ("lora", "full")
      for length, batch in ((128, 1), (128, 32), (512, 4), (2048, 1))),
    Case("smollm2-135m", "lora", 512, 2, "fp32"), Case("smollm2-135m", "full", 128, 8, "fp32"),
    *(Case("llama-380m", method, length, batch, "bf16") for method in ("lora", "full")
      for length, batch in ((128, 1), (512, 2))),
    *(Case("minilm-l6", method, length, batch, precision) for method in ("lora", "full")
      for length, batch, precision in ((128, 32, "bf16"), (512, 8, "fp32"))),
    *(Case("gpt2-45m", method, 512, 4, "bf16") for method in ("lora", "full")),
    *(Case("t5-60m", method, 128, 8, "bf16") for method in ("lora", "full")),
    Case("smollm2-135m", "half", 512, 4, "bf16"), Case("llama-45m", "half", 512, 8, "bf16"),
    Case("smollm2-135m", "qlora", 512, 4, "bf16"), Case("llama-45m", "qlora", 128, 32, "bf16"),
    *(Case(model, method, 512, 8, "bf16", 30, True) for model in ("smollm2-135m", "llama-45m") for method in ("lora", "full")),
]  # fmt: skip


def model_folder(name: str) -> str:
    """The folder of a made model, or the catalogue's name."""
    if name not in MADE:
        return name
    folder = WORK / "models" / name
    if not (folder / "model.safetensors").is_file():
        subprocess.run([sys.executable, __file__, "make", name], check=True)
    return str(folder)


def make(name: str) -> None:
    """Save a random model with the tokenizer of SmolLM2."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from tutelage.models.fetch import fetch
    from tutelage.models.load import load_tokenizer
    from tutelage.models.ref import parse_ref

    values = dict(MADE[name])
    kind, dtype = values.pop("kind"), getattr(torch, values.pop("dtype"))
    config = CONFIG_MAPPING[kind](**{**MODERN, **values})
    torch.manual_seed(0)
    loader = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    folder = WORK / "models" / name
    loader.from_config(config, dtype=dtype).save_pretrained(folder)
    load_tokenizer(fetch(parse_ref("smollm2-135m"), say=print).path).save_pretrained(folder)


def recipe_of(case: Case) -> Path:
    """The recipe of a case, with rows that fill its length, no two alike."""
    folder = WORK / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    task = "classify" if case.model == "minilm-l6" else "seq2seq" if case.model.startswith("t5") else "chat"
    draw = random.Random(0)
    lengths = [
        draw.randint(8, case.length // 2) if case.varied else case.length for _ in range(case.batch * case.steps)
    ]
    rows = [row(task, number, length) for number, length in enumerate(lengths)]
    data = folder / f"{case.name}.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    values = {
        "model": model_folder(case.model), "task": task, "data": {"train": [str(data)]}, "method": case.method,
        "optim": {"steps": case.steps, "batch_size": case.batch}, "max_tokens": case.length, "over_length": "truncate",
        "precision": case.precision, "forgetting": False,
    }  # fmt: skip
    path = folder / f"{case.name}.yaml"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def row(task: str, number: int, length: int) -> dict[str, Any]:
    text = f"{number} " + " ".join(f"water {(number * 31 + i) % 97}" for i in range(length))
    if task == "classify":
        return {"text": text, "label": ("first", "second")[number % 2]}
    if task == "seq2seq":
        return {"source": text, "target": text}
    return {"prompt": f"{number}?", "response": text}


def asked(case: Case, threads: int, *more: str) -> dict[str, Any]:
    """What the verb `estimate` says of a case."""
    command = [
        sys.executable,
        "-m",
        "tutelage",
        "estimate",
        str(recipe_of(case)),
        "--set",
        f"threads={threads}",
        "--json",
    ]
    answer = subprocess.run([*command, *more], stdout=subprocess.PIPE, env=environment(threads), text=True, check=True)
    return dict(json.loads(answer.stdout))


def measured(case: Case, threads: int, timed: bool) -> dict[str, Any]:
    """A run, and the estimate that `train` itself makes before its first step; `timed`: after a probe of the verb."""
    probed: dict[str, Any] = {}
    if timed:
        estimate = asked(case, threads, "--probe")
        probed = {
            "probed_seconds": round(estimate["probe"]["run_seconds"], 2), "verb_mib": estimate["memory"]["peak_mib"],
        }  # fmt: skip
    train = [sys.executable, "-m", "tutelage", "train", str(recipe_of(case)), "--set", f"threads={threads}"]
    out = fresh(WORK / "runs" / case.name)
    ended = run([*train, "--out", str(out), "--json"], out, threads)
    result: dict[str, Any] = {**asdict(case), "load": circumstances()["load"]}
    if ended.measured.returncode != 0:
        return {**result, "failed": ended.log.read_text(encoding="utf-8")[-600:]}
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    fresh(out)
    return (
        result
        | probed
        | {
            "estimated_mib": manifest["totals"]["estimated_peak_mib"],
            "parts_mib": manifest["estimate"]["parts_mib"],
            "measured_mib": round(ended.measured.peak_mib, 1),
            "seconds": round(manifest["totals"]["seconds"], 2),
        }
    )


def estimated(run: dict[str, Any], threads: int) -> dict[str, Any]:
    """The estimate of the verb as the code is now, for a run that was measured."""
    memory = asked(Case(**{key: run[key] for key in Case.__dataclass_fields__}), threads)["memory"]
    return {"estimated_mib": memory["peak_mib"], "parts_mib": memory["parts_mib"]}


def error(run: dict[str, Any]) -> float:
    """Of the estimated peak, relative to the measured one."""
    return float(run["estimated_mib"] / run["measured_mib"] - 1)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    good = [abs(error(each)) for each in runs if "failed" not in each]
    found: dict[str, Any] = {"runs": len(good), "median": statistics.median(good), "worst": max(good)}
    timed = [abs(each["probed_seconds"] / each["seconds"] - 1) for each in runs if "probed_seconds" in each]
    return found | (
        {"timed": len(timed), "time_median": statistics.median(timed), "time_worst": max(timed)} if timed else {}
    )


def table(result: dict[str, Any]) -> str:
    """The table of docs/estimate.md."""
    found = summary(result["runs"])
    lines = [
        f"{found['runs']} runs: median error {found['median']:.1%} (wanted: 10 %), worst {found['worst']:.1%} (wanted: 25 %).", "",
        "| model | method | tokens x rows | precision | estimated MiB | measured MiB | error | probed s | run s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for each in result["runs"]:
        if "failed" in each:
            continue
        time = (
            f"{each['probed_seconds']:.1f} | {each['seconds']:.1f}" if "probed_seconds" in each else "not measured | "
        )
        tokens = f"{'up to ' if each['varied'] else ''}{each['length']:,} x {each['batch']}"
        lines.append(
            f"| {each['model']} | {each['method']} | {tokens} | {each['precision']} "
            f"| {each['estimated_mib']:,.0f} | {each['measured_mib']:,.0f} | {error(each):+.1%} | {time} |"
        )
    if "time_median" in found:
        lines += ["", f"Time after the probe, {found['timed']} runs: median error {found['time_median']:.1%}, "
                  f"worst {found['time_worst']:.1%} (wanted: 20 %)."]  # fmt: skip
    return "\n".join(lines)


def write_table(result: dict[str, Any]) -> None:
    if not DOC.is_file():
        return
    text = DOC.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOC.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="run", choices=["run", "estimates", "table", "make"])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--time", action="store_true", help="probe too; measures all runs anew that have no probe")
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.what == "make":
        return make(given.name)
    result = load(RESULT) or {"versions": our_versions(), "runs": []}
    if given.again:
        result["runs"] = []
    for case in CASES if given.what == "run" else ():
        old = [r for r in result["runs"] if all(r[key] == value for key, value in asdict(case).items())]
        if given.only not in case.name or (
            old and "failed" not in old[0] and (not given.time or "probed_seconds" in old[0])
        ):
            continue
        found = measured(case, given.threads, given.time)
        result["runs"] = [each for each in result["runs"] if each not in old] + [found]
        result["circumstances"] = circumstances()
        write(RESULT, result)
        print(case.name, found.get("failed", f"{error(found):+.1%}" if "failed" not in found else ""), flush=True)
    if given.what == "estimates":
        result["runs"] = [each | estimated(each, given.threads) for each in result["runs"] if "failed" not in each]
        write(RESULT, result)
    write_table(result)
    print(json.dumps(summary(result["runs"])))


if __name__ == "__main__":
    main()
