"""QLoRA from the recipe to the deployed model: what is quantised, what remembers it, and what merging gives."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import tutelage
from tutelage.engine.four_bits import Quantisation
from tutelage.engine.linear import base_linear
from tutelage.engine.nf4 import Nf4Linear, plain_values
from tutelage.errors import ModelError, RecipeError
from tutelage.methods import METHODS, lora
from tutelage.methods.opening import load_located, locate
from tutelage.methods.qlora import QUANTISATION, dequantise, load_base, quantise, quantised, read_quantisation
from tutelage.methods.targets import linear_names
from tutelage.models.load import load_model, stored_dtype
from tutelage.recipe import LoraSpec, QloraSpec

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[5, 17, 300, 42, 8, 99, 250, 3]])
HOW = Quantisation()


def opened(folder: Path, dtype: torch.dtype = torch.float32, how: Quantisation | None = HOW) -> Any:
    return load_base(lambda wanted: load_model(folder, dtype=wanted), folder, dtype, how)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits  # type: ignore[no-any-return]


STORED = {"nf4": Quantisation(double=False), "int4": Quantisation(32, double=False, kind="int4")}


@pytest.fixture(scope="module", params=list(STORED))
def run(
    request: pytest.FixtureRequest, model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run on quantised weights."""
    folder = tmp_path_factory.mktemp("qlora") / request.param
    folder.mkdir()
    rows = [
        {"messages": [{"role": "user", "content": f"How many? {i}"}, {"role": "assistant", "content": f"{i}!"}]}
        for i in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tutelage.train(
        tutelage.make_recipe({
            "model": str(model_folder("llama")), "data": {"train": str(folder / "rows.jsonl"), "validation": 0.25},
            "method": {"kind": "qlora", "rank": 4, "double_quant": False, "quant_type": request.param},
            "precision": "fp32", "threads": 1, "max_tokens": 128,
            "optim": {"steps": 8, "batch_size": 4, "learning_rate": 1e-2}, "out": str(folder / "run"),
        })
    )  # fmt: skip
    return folder / "run"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_every_linear_layer_but_the_head_is_quantised(kind: str, model_folder: Callable[[str], Path]) -> None:
    plain, model = load_model(model_folder(kind), dtype=torch.float32), opened(model_folder(kind), torch.bfloat16)
    names = linear_names(plain)
    assert [name for name, _ in quantised(model)] == names
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for name, layer in quantised(model):
        expected = base_linear(plain.get_submodule(name)).dense()
        assert (plain_values(layer) - expected).norm() / expected.norm() < 0.13, (
            "quantised from the files' own precision"
        )
    assert METHODS.get("qlora").prepare(model, QloraSpec(rank=2), seed=0).total - sum(
        p.numel() for n, p in model.named_parameters() if n.endswith((".a", ".b"))
    ) == sum(p.numel() for p in plain.parameters())


def test_a_layer_that_is_not_named_is_frozen_in_four_bits_too(model_folder: Callable[[str], Path]) -> None:
    model = load_model(model_folder("llama"), dtype=torch.float32)
    trainable = METHODS.get("qlora").prepare(model, QloraSpec(rank=2, target_modules=["q_proj"]), seed=0)
    assert len(trainable.parameters) == 2 * 2
    assert len(quantised(model)) == len(linear_names(load_model(model_folder("llama"), dtype=torch.float32)))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-3)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("quant_type", ["nf4", "int4"])
def test_the_whole_model_trains_as_lora_on_the_dequantised_one(
    quant_type: str, dtype: torch.dtype, tolerance: float, model_folder: Callable[[str], Path]
) -> None:
    """Every adapter gradient, also after an evaluation in between."""
    found = []
    given = QloraSpec.model_validate({"rank": 4, "quant_type": quant_type})
    for method, spec in (("qlora", given), ("lora", LoraSpec(rank=4))):
        model = opened(model_folder("llama"), dtype, Quantisation(given.block_size, kind=given.quant_type))
        if method == "lora":
            dequantise(model)
        trainable = METHODS.get(method).prepare(model, spec, seed=0)
        for _, layer in lora.lora_layers(model):
            layer.b.data.normal_(generator=torch.Generator().manual_seed(1))
        logits(model)
        model.train()(IDS, labels=IDS).loss.backward()
        found.append({name: p.grad.clone() for name, p in trainable.parameters.items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 2 * 14
    for name, expected in found[1].items():
        assert expected.norm() > 0
        assert (found[0][name] - expected).norm() / expected.norm() <= tolerance, name


def stored(run: Path) -> Quantisation:
    return STORED[run.parent.name]


def test_the_run_remembers_how_its_base_is_stored(run: Path, model_folder: Callable[[str], Path]) -> None:
    assert read_quantisation(run / "model") == stored(run)
    place = locate(str(run))
    assert place.quantisation == place.base.quantisation == locate(str(run), base=True).quantisation == stored(run)
    assert locate(str(run / "model")).quantisation == stored(run)
    live = load_located(place, torch.float32, merge=False).model
    assert len(quantised(live)) == 14
    merged = load_located(place, torch.float32).model
    assert not quantised(merged)
    torch.testing.assert_close(logits(merged), logits(live), rtol=1e-4, atol=1e-4)
    base = load_located(place.base, torch.float32).model
    torch.testing.assert_close(logits(base), logits(opened(model_folder("llama"), how=stored(run))))
    assert (logits(base) - logits(load_model(model_folder("llama"), dtype=torch.float32))).abs().max() > 1e-2


def test_a_damaged_note_is_a_sentence(tmp_path: Path) -> None:
    assert read_quantisation(tmp_path) is None
    for text in ('{"quant_type": "fp4", "block_size": 64, "double": true}', '{"quant_type": "nf4"}', "[]"):
        (tmp_path / QUANTISATION).write_text(text, encoding="utf-8")
        with pytest.raises(ModelError):
            read_quantisation(tmp_path)


def test_evaluation_and_every_export_are_of_the_model_that_was_trained(run: Path, tmp_path: Path) -> None:
    scored = tutelage.evaluate(
        str(run), data=str(run.parent / "rows.jsonl"), out=str(tmp_path / "scores"), max_tokens=4
    )
    assert scored["metrics"]
    for to in ("merged", "peft", "gguf:f32"):
        result = tutelage.export(str(run), to=to, out=str(tmp_path / to), prompts=3, max_tokens=8, texts=20)
        assert result["parity"]["agreement"] == 1.0
        assert abs(result["parity"]["loss_change"]) < 1e-3, "what merging costs"
    note = json.loads((tmp_path / "peft" / QUANTISATION).read_text(encoding="utf-8"))
    how = stored(run)
    assert (note["quant_type"], note["double"], note["block_size"]) == (how.kind, False, how.block_size)
    card = (tmp_path / "peft" / "README.md").read_text(encoding="utf-8")
    assert ("BitsAndBytesConfig" in card) is (how.kind == "nf4")
    assert how.kind.upper() in card
    assert not (tmp_path / "merged" / QUANTISATION).exists()
    logits_of = logits(LlamaForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(
        logits_of, logits(load_located(locate(str(run)), torch.float32).model), rtol=1e-4, atol=1e-4
    )


def test_what_cannot_be_quantised_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    mixture = MixtralForCausalLM(MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=2))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="experts"):
        quantise(mixture, HOW)

    class Bare(LlamaForCausalLM):
        """A model in which nothing is linear but the head."""

    bare = Bare(LlamaConfig(**sizes))  # type: ignore[arg-type]
    bare.model.layers = nn.ModuleList()
    with pytest.raises(RecipeError, match="no linear layers"):
        quantise(bare, HOW)
    with pytest.raises(RecipeError, match="block_size"):
        tutelage.make_recipe({"model": "m", "data": {"train": "f"}, "method": {"kind": "qlora", "block_size": 48}})
    with pytest.raises(RecipeError, match="double_quant"):
        tutelage.make_recipe({"model": "m", "data": {"train": "f"}, "method": {"kind": "qlora", "double_quants": True}})


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['bitsandbytes'] = None; import tutelage\n"
        "recipe = tutelage.make_recipe({'model': 'm', 'data': {'train': 'f'}, 'method': 'qlora', 'threads': 1})\n"
        "from tutelage.train.setup import choose_plan\n"
        "try: choose_plan(recipe)\n"
        "except tutelage.errors.MissingInputError as error: print(error)\n"
        "method = {'kind': 'qlora', 'quant_type': 'int4'}\n"
        "choose_plan(tutelage.make_recipe({'model': 'm', 'data': {'train': 'f'}, 'method': method, 'threads': 1}))\n"
        "print('int4 needs nothing')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "pip install 'tutelage[qlora]'" in said
    assert "int4 needs nothing" in said


def test_the_dtype_of_the_files_is_the_one_of_most_weights(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    assert stored_dtype(model_folder("llama")) == torch.float32
    load_model(model_folder("llama"), dtype=torch.float16).save_pretrained(tmp_path)
    assert stored_dtype(tmp_path) == torch.float16


@pytest.mark.parametrize(
    "dtype, kind, bits", [("float32", "nf4", 4.127), ("bfloat16", "nf4", 4.127), ("bfloat16", "int4", 4.516)]
)
def test_loading_never_holds_the_full_model(dtype: str, kind: str, bits: float, tmp_path: Path) -> None:
    """A model of 33 million weights in two shards; the bench script ends with 1 where a bound is broken."""
    sizes = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, **sizes)).to(getattr(torch, dtype))  # type: ignore[arg-type]
    model.save_pretrained(tmp_path, max_shard_size="60MB" if dtype == "float32" else "30MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    command = [sys.executable, str(ROOT / "bench" / "qlora" / "loading.py"), str(tmp_path), "--quant-type", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["ratio"] == pytest.approx(bits / 16, abs=1e-3)
    assert found["peak_mib"] < 0.75 * found["bf16_bytes"] / 2**20, "not even the bf16 weights"


def test_all_buffers_are_bytes(model_folder: Callable[[str], Path]) -> None:
    for _, layer in quantised(opened(model_folder("llama"))):
        assert isinstance(layer, Nf4Linear)
        assert {b.dtype for name, b in layer.named_buffers() if name != "compute"} == {torch.uint8}


def test_what_goes_with_int4_and_what_does_not() -> None:
    assert QloraSpec.model_validate({"quant_type": "int4"}).block_size == 32
    assert QloraSpec.model_validate({"quant_type": "int4", "block_size": 128}).block_size == 128
    assert QloraSpec().block_size == 64
    with pytest.raises(ValueError, match="calibrate: only quant_type: nf4"):
        QloraSpec.model_validate({"quant_type": "int4", "calibrate": 8})
