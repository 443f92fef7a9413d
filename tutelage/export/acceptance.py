"""What vLLM and Ollama accept, as of the versions named, and the commands that run an artefact there.

A list of rules, each with the file and line that it was read in, of vLLM 0.32.0 and of Ollama's commit fb307609; an artefact that
breaks one is told of before somebody waits for a cluster. That vLLM also runs what they let through
(tests/serve/test_vllm_itself.py); Ollama was not run.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.export.gguf_file import FILE
from tutelage.methods.adapter_file import CONFIG, WEIGHTS
from tutelage.models.safetensors_file import read_header, shards
from tutelage.models.safety import read_object

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")  # those that change no base weight
VLLM_MODELS = {  # of its own or, for SmolLM3 and Olmo2, through transformers
    "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM",
    "Gemma3ForCausalLM", "SmolLM3ForCausalLM", "GPT2LMHeadModel", "Phi3ForCausalLM", "GraniteForCausalLM", "Olmo2ForCausalLM",
}  # fmt: skip
OTHER_LORA = ("lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")


@dataclass(frozen=True)
class Rule:
    """One condition, where it was read, and whether a folder meets it."""

    what: str
    source: str
    holds: Callable[[Path], bool]


def _config(folder: Path) -> dict[str, Any]:
    return read_object(folder / CONFIG)


def _modelfile(folder: Path, word: str) -> bool:
    return any(
        line.split(" ", 1)[0] == word for line in (folder / "Modelfile").read_text(encoding="utf-8").splitlines()
    )


def _plain_init(folder: Path) -> bool:
    init = _config(folder).get("init_lora_weights", True)
    return not isinstance(init, str) or init.lower() in VLLM_INITS


def _most_rank(folder: Path) -> int:
    config = _config(folder)
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])


RULES: dict[str, tuple[Rule, ...]] = {
    "peft": (
        Rule("modules_to_save is empty", "vllm/lora/peft_helper.py:56", lambda f: not _config(f).get("modules_to_save")),
        Rule("use_dora is off", "vllm/lora/peft_helper.py:66", lambda f: not _config(f).get("use_dora")),
        Rule("init_lora_weights changes no base weight", "vllm/lora/peft_helper.py:89", _plain_init),
        Rule(f"{', '.join(OTHER_LORA)} are off", "vllm/lora/peft_helper.py:68-86",
             lambda f: not any(_config(f).get(name) for name in OTHER_LORA)),
        Rule("r, lora_alpha and target_modules are there", "vllm/lora/peft_helper.py:156",
             lambda f: {"r", "lora_alpha", "target_modules"} <= _config(f).keys()),
        Rule("bias is none", "vllm/lora/peft_helper.py:199", lambda f: _config(f).get("bias", "none") == "none"),
        Rule("the rank is at most 512", "vllm/config/lora.py:26", lambda f: _most_rank(f) <= VLLM_RANKS[-1]),
        Rule("every tensor is a lora_A or lora_B", "vllm/lora/utils.py:207",
             lambda f: all(t.name.endswith((".lora_A.weight", ".lora_B.weight")) for t in read_header(f / WEIGHTS))),
    ),
    "merged": (
        Rule("the architecture is listed", "vllm/model_executor/models/registry.py:72-211,709-743",
             lambda f: bool(VLLM_MODELS & set(read_object(f / "config.json").get("architectures") or ()))),
        Rule("weights are safetensors", "vllm/model_executor/model_loader/default_loader.py:186", lambda f: bool(shards(f))),
        Rule("the config is not quantised", "vllm/config/model.py:1376",
             lambda f: "quantization_config" not in read_object(f / "config.json")),
        Rule("a chat template is there", "vllm/entrypoints/openai/chat_completion/protocol.py:361",
             lambda f: (f / "chat_template.jinja").is_file() or "chat_template" in read_object(f / "tokenizer_config.json")),
    ),
    "ollama": (
        Rule("the Modelfile has FROM", "ollama parser/parser.go:582", lambda f: _modelfile(f, "FROM")),
        Rule("the Modelfile has TEMPLATE", "ollama template/template.go:145: without one the format is guessed",
             lambda f: _modelfile(f, "TEMPLATE")),
        Rule("the model file is there", "ollama parser/parser.go:221", lambda f: (f / FILE).is_file()),
    ),
}  # fmt: skip


def broken(kind: str, folder: Path) -> list[str]:
    """The rules that an artefact breaks, each with its source."""
    return [f"{rule.what} ({rule.source})" for rule in RULES.get(kind, ()) if not rule.holds(folder)]


def commands(kind: str, folder: Path, name: str) -> dict[str, str]:
    """By program, the command line that serves a finished artefact; none for one that it refuses. `name` is what clients
    call the model."""
    makers = COMMANDS.get(kind, {})
    made = {program: make(folder.resolve(), name) for program, make in makers.items()}
    return {program: shlex.join(words) for program, words in made.items() if words}


def vllm_words(base: Path | str, name: str, adapters: Mapping[str, Path]) -> list[str]:
    """What follows `vllm serve`: the model folder `base` as `name`, and PEFT adapters over it by name."""
    words = [str(base), "--served-model-name", name]
    if not adapters:
        return words
    most = max(_most_rank(folder) for folder in adapters.values())
    rank = next((rank for rank in VLLM_RANKS if rank >= most), VLLM_RANKS[-1])
    modules = [f"{adapter}={folder}" for adapter, folder in adapters.items()]
    lora = [
        "--enable-lora",
        "--max-lora-rank",
        str(rank),
        "--max-loras",
        str(len(adapters)),
        "--lora-modules",
        *modules,
    ]
    return [*words, *lora]


def _vllm_merged(folder: Path, name: str) -> list[str]:
    return ["vllm", "serve", *vllm_words(folder, name, {})]


def _vllm_adapter(folder: Path, name: str) -> list[str]:
    config = _config(folder)
    if _most_rank(folder) > VLLM_RANKS[-1]:
        return []
    base = str(config["base_model_name_or_path"])
    return ["vllm", "serve", *vllm_words(base, f"{name}-base", {name: folder})]


def _llama_server(folder: Path, name: str) -> list[str]:
    return ["llama-server", "--model", str(folder / FILE), "--alias", name, "--jinja", "--port", "8080"]


def _ollama(folder: Path, name: str) -> list[str]:
    return ["ollama", "create", name, "--file", str(folder / "Modelfile")]


COMMANDS: dict[str, dict[str, Callable[[Path, str], list[str]]]] = {
    "merged": {"vllm": _vllm_merged}, "peft": {"vllm": _vllm_adapter}, "gguf": {"llama-server": _llama_server},
    "ollama": {"llama-server": _llama_server, "ollama": _ollama},
}  # fmt: skip
