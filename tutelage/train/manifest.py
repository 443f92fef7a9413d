"""The manifest of a run: what it is, on what it ran, whether a folder may be continued, and what came of it."""

import json
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tutelage.engine.precision import device_name
from tutelage.errors import ChangedRunError, Problem
from tutelage.models.describe import describe
from tutelage.recipe import Recipe, as_yaml
from tutelage.runs import EVENTS, FORGETTING, MANIFEST, history, read_json, write_json, write_text
from tutelage.tasks.opening import read_task
from tutelage.taskspec import LABELLING, TextSpec
from tutelage.train import checkpoint
from tutelage.train.loop import TrainState
from tutelage.train.material import Material
from tutelage.train.setup import choose_plan, differences, identity, with_later_keys


def now() -> str:
    """The time as ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def open_manifest(folder: Path, recipe: Recipe, material: Material, allow_changes: bool) -> dict[str, Any]:
    """The folder's manifest, checked against this recipe and data; a new one with a freshly measured plan otherwise."""
    same = identity(recipe, material)
    begun = (folder / EVENTS).is_file() or bool(checkpoint.steps(folder / "checkpoints"))
    if begun and not (folder / MANIFEST).is_file():
        raise ChangedRunError(
            f"this folder holds a run that has lost its {MANIFEST}", where=str(folder),
            why="nobody can tell what its checkpoints were trained on", fix="choose another `out`, or remove the folder",
        )  # fmt: skip
    if begun:  # else nothing was computed that a corrected recipe could contradict
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        changed = differences(with_later_keys(manifest["identity"]), same)
        if recipe.precision not in ("auto", manifest["plan"]["precision"]):
            changed.append(f"plan.precision: {manifest['plan']['precision']} → {recipe.precision}")
        if recipe.threads not in (None, manifest["plan"]["threads"]):
            changed.append(f"plan.threads: {manifest['plan']['threads']} → {recipe.threads}")
        if manifest["plan"]["device"] != device_name():
            changed.append(f"plan.device: {manifest['plan']['device']} → {device_name()}")
        if not changed:
            return manifest
        if not allow_changes:
            fix = "choose another `out`, or continue with the change: --allow-changes"
            raise ChangedRunError([Problem(f"changed: {line}", str(folder), fix=fix) for line in changed])
        fresh = new_manifest(recipe, material, same)
        manifest |= {key: fresh[key] for key in ("identity", "plan", "model", "data", "status")}
        manifest.setdefault("changes", []).append({"at": now(), "changed": changed})
    else:
        manifest = new_manifest(recipe, material, same)
    write_text(folder / "recipe.yaml", as_yaml(recipe))
    write_json(folder / "contract.json", material.contract_json())
    lines = [
        json.dumps({"reason": d.reason, "source": d.at.source, "row": d.at.row, "detail": d.detail}, ensure_ascii=False)
        for d in material.dropped
    ]
    write_text(folder / "dropped.jsonl", "".join(line + "\n" for line in lines))
    write_json(folder / MANIFEST, manifest)
    return manifest


def new_manifest(recipe: Recipe, material: Material, same: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run before its first step."""
    prepared, fetched = material.prepared, material.fetched
    reasons, info = [dropped.reason for dropped in material.dropped], describe(fetched.path)
    return {
        "schema": 1, "status": "running", "created": now(), "finished": None,
        "versions": versions(),
        "machine": machine(),
        "model": {"name": recipe.model, "source": fetched.source, "path": str(fetched.path.resolve()),
                  "sha256": fetched.sha256, "architecture": info.architecture, "parameters": info.parameters},
        "data": {"fingerprint": prepared.fingerprint, "counts": material.counts, "formats": prepared.formats,
                 "dropped": {reason: reasons.count(reason) for reason in sorted({*reasons})}, "overlap": prepared.overlap},
        "identity": same,
        "plan": choose_plan(recipe).as_json(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """The versions that can change a result."""
    packages = ("tutelage", "torch", "transformers", "tokenizers", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def version_notes(manifest: dict[str, Any]) -> Iterator[str]:
    """A sentence for each package that has changed since the run began: then the last bits may differ."""
    for name, now_installed in versions().items():
        before = manifest["versions"].get(name)
        if before != now_installed:
            yield f"note: the run began with {name} {before}, and this is {now_installed}: the last bits may differ"


def machine() -> dict[str, Any]:
    """The machine in a few words."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    meminfo = Path("/proc/meminfo")
    memory = int(meminfo.read_text().split()[1]) * 1024 if meminfo.is_file() else None
    return {"cpu": cpu, "capability": torch.backends.cpu.get_cpu_capability(), "cores": torch.get_num_threads(),
            "memory_bytes": memory, "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "platform": platform.platform()}  # fmt: skip


def totals(state: TrainState, peak_mib: float) -> dict[str, Any]:
    """The run's sums, over all its starts."""
    return {
        "steps": state.step, "epochs": state.step / state.batches.per_epoch, "target_tokens": state.target_tokens,
        "tokens": state.tokens, "tokens_per_second": state.tokens / state.seconds if state.seconds else 0.0,
        "peak_rss_mib": round(peak_mib, 1), "seconds": state.seconds, "train_loss": state.train_loss,
        "trainable_parameters": state.trainable.count, "total_parameters": state.trainable.total,
    }  # fmt: skip


def summary(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the verb returns: the contract's keys, read from the run folder."""
    events = history(folder)
    scored = [event for event in events if event["event"] == "validated"]
    before = next((event for event in scored if event["step"] == 0), None)
    after = next((event for event in scored if event["step"] == manifest.get("model_step")), None)
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    kind, made = manifest["identity"]["recipe"]["task"]["kind"], read_task(folder / "model")
    masked = isinstance(made, TextSpec) and made.objective == "masked"
    return {
        "run": str(folder), "task": kind, "writes": kind not in LABELLING and not masked,
        **manifest["totals"], "validation": {"before": before, "after": after},
        "resumed_from": (resumed[-1] or None) if resumed else None, "model": str(folder / "model"),
        "report": str(folder / "report.html"), "reason": manifest.get("reason"), "samples": read_samples(folder),
        "forgetting": read_json(folder / FORGETTING) if (folder / FORGETTING).is_file() else None,
    }  # fmt: skip


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The sample answers, if there are any."""
    path = folder / "samples.json"
    return read_json(path) if path.is_file() else []
