"""A base that was rounded by what training rows do to it: closer to the untouched model, kept in a file, the same ever after."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import tutelage
from tutelage.encode.types import Encoded
from tutelage.engine.four_bits import Quantisation
from tutelage.engine.nf4 import plain_values
from tutelage.errors import ModelError, OutputError, RecipeError, UsageError
from tutelage.methods import METHODS
from tutelage.methods.calibrate import calibrate, write_blocks
from tutelage.methods.opening import load_located, locate
from tutelage.methods.qlora import (
    BLOCKS,
    QUANTISATION,
    calibrate_base,
    load_base,
    quantise,
    quantised,
    read_quantisation,
)
from tutelage.models.load import load_model, load_tokenizer
from tutelage.recipe import LoraSpec, QloraSpec
from tutelage.train.material import gather
from tutelage.train.setup import calibrated

HOW = Quantisation(16)


def recipe(folder: Path, model: Path, **more: Any) -> tutelage.Recipe:
    rows = [
        {"messages": [{"role": "user", "content": f"How many? {i}"}, {"role": "assistant", "content": f"{i}!"}]}
        for i in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "model": str(model), "data": {"train": str(folder / "rows.jsonl"), "validation": 0.25},
        "method": {"kind": "qlora", "rank": 4, "block_size": 16, "calibrate": 8}, "precision": "fp32", "threads": 1,
        "optim": {"steps": 6, "batch_size": 4, "learning_rate": 1e-2}, "max_tokens": 128, "forgetting": False,
        "out": str(folder / "run"),
    }  # fmt: skip
    return tutelage.make_recipe({**values, **more})


@pytest.fixture(scope="module")
def run(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    said: list[str] = []
    tutelage.train(recipe(folder, model_folder("llama")), say=said.append)
    assert [text for text in said if text.startswith("calibrating: ")][1:] == [
        "calibrating: 1 of 2 layers", "calibrating: 2 of 2 layers",
    ]  # fmt: skip
    return folder / "run"


def training_rows(folder: Path, model: Path) -> list[Encoded]:
    return list(gather(recipe(folder, model), lambda text: None).train.rows)


def logits(model: Any, rows: list[Encoded]) -> torch.Tensor:
    with torch.inference_mode():
        each = [model.eval()(torch.from_numpy(row.ids.astype("int64"))[None]).logits[0] for row in rows]
    return torch.cat(each)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mistral"])
def test_the_model_is_closer_to_the_untouched_one_than_by_rounding_to_the_nearest(
    kind: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model_folder(kind)
    rows = training_rows(tmp_path, folder)
    expected = logits(load_model(folder, dtype=torch.float32), rows[12:])
    nearest, used = (load_model(folder, dtype=torch.float32) for _ in range(2))
    quantise(nearest, HOW)
    write_blocks(calibrate(used, rows[:12], HOW), tmp_path / BLOCKS)
    again = load_base(
        lambda dtype: load_model(folder, dtype=dtype), folder, torch.float32, Quantisation(16, blocks=tmp_path / BLOCKS)
    )
    assert torch.equal(logits(used, rows), logits(again, rows)), "what was seen while calibrating is what is loaded"
    errors = [(logits(model, rows[12:]) - expected).norm() for model in (again, nearest)]
    assert 0 < errors[0] < 0.8 * errors[1]


def test_adapters_can_start_with_what_rounding_took(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder("llama")
    rows = training_rows(tmp_path, folder)
    spec = QloraSpec(rank=8, block_size=16, calibrate=12, init="qera")
    load = lambda dtype: load_model(folder, dtype=dtype)  # noqa: E731
    calibrate_base(load, folder, spec, rows[:12], tmp_path / BLOCKS)
    model = load_base(load, folder, torch.float32, Quantisation(16, blocks=tmp_path / BLOCKS))
    expected, base = logits(load(torch.float32), rows[12:]), logits(model, rows[12:])
    trainable = METHODS.get("qlora").prepare(model, spec, seed=0)
    assert len(trainable.parameters) == 2 * 14
    begun = logits(model, rows[12:])
    assert (begun - expected).norm() < 0.8 * (base - expected).norm()
    for wrong in ({"calibrate": 0}, {"dora": True}):
        with pytest.raises(ValueError, match="init: qera"):
            QloraSpec(**{"rank": 8, "calibrate": 12, "init": "qera", **wrong})
    with pytest.raises(ValueError, match="init: qera needs"):
        LoraSpec(init="qera")


def test_the_run_and_its_model_keep_the_rounded_weights(run: Path) -> None:
    note = json.loads((run / "model" / QUANTISATION).read_text(encoding="utf-8"))
    assert (note["block_size"], note["blocks"]) == (16, BLOCKS)
    assert (run / BLOCKS).read_bytes() == (run / "model" / BLOCKS).read_bytes()
    place = locate(str(run))
    assert place.base.quantisation == place.quantisation == Quantisation(16, True, run / "model" / BLOCKS)
    with safe_open(str(run / BLOCKS), "pt") as file:
        for name, layer in quantised(load_located(place, torch.float32, merge=False).model):
            stored = file.get_tensor(f"{name.removesuffix('.base')}.codes")
            assert torch.equal(layer.codes, stored)
            assert torch.equal(layer.dense(), plain_values(layer))


def test_a_run_that_goes_on_takes_the_weights_that_are_there(
    run: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = recipe(tmp_path, model_folder("llama"), save={"every": 3})

    def stop(event: Any) -> None:
        if getattr(event, "step", 0) == 4 and event.event == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tutelage.train(spec, watch=stop)
    made = (tmp_path / "run" / BLOCKS).stat()
    said: list[str] = []
    tutelage.train(spec, say=said.append)
    assert not [text for text in said if text.startswith("calibrating")]
    assert (tmp_path / "run" / BLOCKS).stat().st_mtime_ns == made.st_mtime_ns
    for name in ("adapter_model.safetensors", BLOCKS):
        assert (tmp_path / "run" / "model" / name).read_bytes() == (run / "model" / name).read_bytes()


def test_exports_are_of_the_model_that_was_trained(run: Path, tmp_path: Path) -> None:
    result = tutelage.export(str(run), to="merged", out=str(tmp_path / "merged"), prompts=3, max_tokens=8, texts=20)
    assert result["parity"]["agreement"] == 1.0
    with pytest.raises(UsageError, match="no base that PEFT could load"):
        tutelage.export(str(run), to="peft", out=str(tmp_path / "peft"), prompts=3, max_tokens=8, texts=20)
    assert not (tmp_path / "peft").exists()


def test_what_cannot_be_calibrated_is_a_sentence(
    run: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    wide = recipe(tmp_path, model_folder("llama"), method={"kind": "qlora", "calibrate": 4})
    with pytest.raises(RecipeError, match="no whole number of blocks of 64"):
        tutelage.train(wide)
    given = load_model(model_folder("llama"), dtype=torch.float32), load_tokenizer(model_folder("llama"))
    with pytest.raises(RecipeError, match="given in memory"):
        tutelage.train(recipe(tmp_path, model_folder("llama")), loaded=given)
    (tmp_path / "labels.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' * 4, "utf-8")
    classify = {"task": "classify", "data": {"train": str(tmp_path / "labels.jsonl")}}
    with pytest.raises(RecipeError, match="no causal head"):
        tutelage.train(recipe(tmp_path, model_folder("llama"), out=str(tmp_path / "other"), **classify))


def test_a_damaged_file_of_rounded_weights_is_a_sentence(
    run: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / QUANTISATION).write_text((run / "model" / QUANTISATION).read_text("utf-8"), "utf-8")
    with pytest.raises(ModelError, match=r"nf4\.safetensors is missing"):
        read_quantisation(tmp_path)
    (tmp_path / BLOCKS).write_text("no tensors", "utf-8")
    how, folder = read_quantisation(tmp_path), model_folder("llama")
    with pytest.raises(ModelError, match="rounded weights cannot be read"):
        load_base(lambda dtype: load_model(folder, dtype=dtype), folder, torch.float32, how)
    (tmp_path / "folder" / "in its place").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot write this file"):
        write_blocks({"other.codes": torch.zeros(1)}, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", BLOCKS, QUANTISATION]
    write_blocks({"other.codes": torch.zeros(1)}, tmp_path / BLOCKS)
    with pytest.raises(ModelError, match="rounded weights cannot be read"):
        load_base(lambda dtype: load_model(folder, dtype=dtype), folder, torch.float32, how)


def test_weights_that_were_rounded_for_another_base_are_made_anew(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = recipe(tmp_path, model_folder("llama"), optim={"steps": 1, "batch_size": 4})
    material, folder = gather(spec, lambda text: None), tmp_path / "kept"
    kept = calibrated(spec, material, folder)
    assert kept is not None
    before = kept.read_bytes()
    said: list[str] = []
    calibrated(spec, material, folder, said.append)
    assert not said
    assert kept.read_bytes() == before
    other = spec.model_copy(update={"method": QloraSpec(rank=4, block_size=16, calibrate=6)})
    calibrated(other, material, folder, said.append)
    assert said
    assert kept.read_bytes() != before


def test_an_adapter_goes_on_only_on_a_base_like_its_own(
    run: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = {"kind": "qlora", "rank": 4, "block_size": 16}
    parent = recipe(tmp_path, model_folder("llama"), method=plain, out=str(tmp_path / "parent"))
    tutelage.train(parent)
    adapter = str(tmp_path / "parent" / "model")
    for method, why in (
        ({"kind": "lora", "rank": 4, "adapter": adapter}, "blocks of 16"),
        ({**plain, "block_size": 32, "adapter": adapter}, "blocks of 16"),
        ({**plain, "adapter": str(run / "model")}, "calibrated"),
    ):
        with pytest.raises(RecipeError, match="trained on another base") as caught:
            tutelage.train(recipe(tmp_path, model_folder("llama"), method=method, out=str(tmp_path / "child")))
        assert caught.value.problems[0].where == "method.adapter"
        assert why in str(caught.value.problems[0].why)
    found = tutelage.train(recipe(tmp_path, model_folder("llama"), method={**plain, "adapter": adapter}))
    assert found["steps"] == 6
