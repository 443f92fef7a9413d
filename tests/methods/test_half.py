"""Half fine-tuning: what is drawn, by category as published, in every architecture; and that exactly this trains."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from tutelage.errors import RecipeError
from tutelage.methods import METHODS
from tutelage.methods.half import Halves, drawn_parts
from tutelage.methods.parts import ATTENTION, FEED_FORWARD, NORM, Part, parts_of
from tutelage.models.tiny import tiny_model
from tutelage.recipe import HalfSpec, make_recipe
from tutelage.train import checkpoint
from tutelage.train.loop import TrainState, restore, training
from tutelage.train.material import gather
from tutelage.train.outcome import choose_weights
from tutelage.train.setup import build_state, choose_plan

SHARED = {"vocab_size": 64, "pad_token_id": 0, "num_hidden_layers": 5, "num_attention_heads": 4}
WIDE = {**SHARED, "hidden_size": 16, "intermediate_size": 24}
PAIR = {"vocab_size": 64, "pad_token_id": 0, "d_model": 16, "decoder_start_token_id": 0}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("AutoModelForMaskedLM", WIDE), "roberta": ("AutoModelForSequenceClassification", WIDE),
    "distilbert": ("AutoModelForMaskedLM", {"vocab_size": 64, "dim": 16, "hidden_dim": 24, "n_layers": 5, "n_heads": 4}),
    "modernbert": ("AutoModelForMaskedLM", WIDE),
    "t5": ("AutoModelForSeq2SeqLM", {**PAIR, "d_kv": 4, "d_ff": 24, "num_layers": 5, "num_heads": 4,
                                     "feed_forward_proj": "gated-gelu"}),
    "bart": ("AutoModelForSeq2SeqLM", {
        **PAIR, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "forced_eos_token_id": None,
    }),
}  # fmt: skip
# Of each layer: attention matrices (in each attention), feed-forward matrices, norms; and norms in no layer.
SHAPES = {
    "llama": ({4}, {3}, {2}, 1), "qwen2": ({4}, {3}, {2}, 1), "qwen3": ({4}, {3}, {4}, 1), "gemma2": ({4}, {3}, {4}, 1),
    "gemma3_text": ({4}, {3}, {6}, 1), "mistral": ({4}, {3}, {2}, 1), "gpt2": ({2}, {2}, {2}, 1),
    "bert": ({4}, {2}, {2}, 2), "roberta": ({4}, {2}, {2}, 1),
    "distilbert": ({4}, {2}, {2}, 2), "modernbert": ({2}, {2}, {1, 2}, 3),
    "t5": ({4}, {3}, {2, 3}, 2), "bart": ({4}, {2}, {2, 3}, 2),
}  # fmt: skip


def model_of(kind: str) -> Any:
    if kind not in OTHERS:
        return tiny_model(kind)
    loader, sizes = OTHERS[kind]
    return getattr(transformers, loader).from_config(CONFIG_MAPPING[kind](**sizes))


def by_group(parts: list[Part], category: str) -> dict[str, int]:
    return Counter(part.group for part in parts if part.category == category)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_family_has_its_parts(kind: str) -> None:
    model = model_of(kind)
    parts = parts_of(model)
    attention, feed_forward, norms, outside = SHAPES[kind]
    assert set(by_group(parts, ATTENTION).values()) == attention
    assert set(by_group(parts, FEED_FORWARD).values()) == feed_forward
    assert {n for group, n in by_group(parts, NORM).items() if group} == norms
    assert by_group(parts, NORM)[""] == outside
    named = [name for part in parts for name in part.names]
    assert len(named) == len(set(named))
    rest = {name: p for name, p in model.named_parameters() if name not in set(named)}
    layers = [name for name in rest if any(component.isdigit() for component in name.split("."))]
    assert all("relative_attention_bias" in name for name in layers)  # T5's is an embedding
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    heads = ("lm_head", "cls.", "classifier", "vocab_", "head.", "decoder.bias", "pooler")
    assert all(id(p) in embeddings or any(h in name for h in heads) for name, p in rest.items()), sorted(rest)
    for part in parts:  # a bias goes with its matrix
        owners = {name.rpartition(".")[0] for name in part.names}
        assert len(owners) == 1
        held = {f"{o}.{n}" for o in owners for n, _ in model.get_submodule(*owners).named_parameters(recurse=False)}
        assert set(part.names) == held


@pytest.mark.parametrize("kind", SHAPES)
def test_half_of_each_group_is_drawn_and_of_odd_ones_the_larger_part_in_half_of_them(kind: str) -> None:
    parts = tuple(parts_of(model_of(kind)))
    for number in range(20):
        chosen = drawn_parts(parts, seed=7, number=number)
        for category in (ATTENTION, FEED_FORWARD, NORM):
            sizes, drawn = by_group(list(parts), category), Counter[str]()
            for part, taken in zip(parts, chosen):
                drawn[part.group] += taken and part.category == category
            assert all(drawn[group] == size // 2 for group, size in sizes.items() if size % 2 == 0)
            odd = [drawn[group] - size // 2 for group, size in sizes.items() if size % 2]
            assert set(odd) <= {0, 1}
            assert sum(odd) in (len(odd) // 2, (len(odd) + 1) // 2)


def test_the_published_numbers_for_llama() -> None:
    sizes = {**WIDE, "num_hidden_layers": 6, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    model = transformers.AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**sizes, tie_word_embeddings=True))
    trainable = METHODS.get("half").prepare(model, HalfSpec(), seed=3)
    drawn = set(trainable.parameters)
    layers = [[n for n in drawn if f"layers.{i}." in n] for i in range(6)]
    assert [sum("self_attn" in n for n in layer) for layer in layers] == [2] * 6
    assert sorted(sum("mlp" in n for n in layer) for layer in layers) == [1, 1, 1, 2, 2, 2]
    assert [sum("norm" in n for n in layer) for layer in layers] == [1] * 6
    assert "model.embed_tokens.weight" in drawn
    assert not any("lm_head" in n for n in drawn)  # tied: counted once, trained once
    assert trainable.total == sum(p.numel() for p in model.parameters())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == drawn


def test_a_draw_depends_on_seed_and_round_alone() -> None:
    parts = tuple(parts_of(tiny_model("llama")))
    draws = {(seed, number): tuple(drawn_parts(parts, seed, number)) for seed in range(5) for number in range(5)}
    assert draws == {key: tuple(drawn_parts(parts, *key)) for key in reversed(draws)}
    assert len(set(draws.values())) > 20
    taken = [sum(column) for column in zip(*(drawn_parts(parts, 0, number) for number in range(400)))]
    assert all(150 < count < 250 for count in taken)  # every part is drawn half of the time


def test_rounds_are_counted_from_the_run_the_epoch_or_steps() -> None:
    def numbers(unit: Any) -> list[int]:
        return [Halves({}, 0, (), 0, unit).number(step, 3) for step in range(7)]

    assert numbers("run") == [0] * 7
    assert numbers("epoch") == [0, 0, 0, 1, 1, 1, 2]
    assert numbers(2) == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("wrong", ["runs", 0, -3, 1.5, True])
def test_a_round_that_is_none_is_a_sentence(wrong: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe({"model": "m", "data": {"train": "x.jsonl"}, "method": {"kind": "half", "round": wrong}})
    assert "method.round" in str(caught.value)


Build = Callable[..., TrainState]


@pytest.fixture
def build(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path) -> Build:
    """A function from recipe keys to a run in memory."""

    def make(**changes: Any) -> TrainState:
        values = {
            "model": str(model_folder("llama")), "data": {"train": str(chat_file(24)), "validation": 0.4},
            "method": {"kind": "half", "round": 2}, "optim": {"steps": 8, "batch_size": 4, "learning_rate": 1e-2},
            "max_tokens": 400, "precision": "fp32", "threads": 1, "validate": {"every": 1}, "save": {"every": 1, "keep": 99},
        }  # fmt: skip
        recipe = make_recipe(values | changes)
        return build_state(recipe, gather(recipe, lambda text: None), choose_plan(recipe), tmp_path / "checkpoints")

    return make


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    """What the model computes with, and every master."""
    computed = {f"model.{name}": p.detach().clone() for name, p in state.backbone.model.named_parameters()}
    return computed | {f"master.{name}": m.detach().clone() for name, m in state.optimizer.masters.items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("unit", ["run", "epoch", 2])
def test_after_each_round_exactly_the_drawn_half_has_changed(unit: Any, precision: str, build: Build) -> None:
    optim = {"steps": 8, "batch_size": 4, "learning_rate": 1e-2, "schedule": "constant"}  # each update shows in bf16
    state = build(method={"kind": "half", "round": unit}, precision=precision, validate={"every": 99}, optim=optim)
    rounds, before, drawn = 0, {}, set()
    for event in training(state):
        if event.event in ("drawn", "finished"):
            now = weights(state)
            changed = {name for name, tensor in now.items() if before and not torch.equal(tensor, before[name])}
            assert changed == (
                {f"{kind}.{name}" for kind in ("model", "master") for name in drawn} if before else set()
            )
            before, rounds = now, rounds + (event.event == "drawn")
            drawn = set(event.names) if event.event == "drawn" else drawn
    assert rounds == {"run": 1, "epoch": math.ceil(8 / state.batches.per_epoch), 2: 4}[unit]
    assert state.batches.per_epoch < 8
    assert all(m.dtype == torch.float32 for m in state.optimizer.masters.values())
    everything = {name for name, _ in state.backbone.model.named_parameters()}
    assert set(state.optimizer.masters) == (drawn if unit == "run" else everything)


def test_gradients_and_moments_are_held_for_the_drawn_half_alone(build: Build) -> None:
    state = build(precision="bf16")
    halves = []
    for event in training(state):
        if event.event == "drawn":
            halves.append(set(event.names))
            held = {name for name, master in state.optimizer.masters.items() if state.optimizer.adam.state.get(master)}
            assert held == (set(event.names) if event.step else set())
            assert set(state.optimizer.buffers) <= set(event.names)
            assert all(p.requires_grad == (name in event.names) for name, p in state.backbone.model.named_parameters())
    assert len({frozenset(half) for half in halves}) == 4
    assert all(state.optimizer.adam.state.get(master) for master in state.optimizer.trained)
    assert {name.removeprefix("exp_avg.") for name in state.optimizer.state() if name.startswith("exp_avg.")} == halves[
        -1
    ]


def test_what_stays_drawn_keeps_its_moments_and_what_enters_starts_anew(build: Build) -> None:
    state = build()
    seen: list[tuple[set[str], dict[str, float]]] = []
    for event in training(state):
        if event.event == "drawn":
            counts = {
                n: float(s["step"])
                for n, m in state.optimizer.masters.items()
                if (s := state.optimizer.adam.state.get(m))
            }
            seen.append((set(event.names), counts))
    for (old, before), (new, after) in pairwise(seen):
        for name in new:
            assert after[name] == (before.get(name, 0.0) + 2 if name in old else 0.0)


def test_a_round_that_ends_at_a_checkpoint_is_entered_once_on_either_way(build: Build) -> None:
    whole = build()
    expected = [e for e in training(whole) if e.event == "drawn"]
    for step in (3, 4):
        again = build()
        restore(again, checkpoint.load(whole.store / f"step-{step:08d}"))
        assert again.round == 1
        got = [e for e in training(again) if e.event == "drawn"]
        assert got == [e for e in expected if e.step >= step]
        assert all(torch.equal(m, again.optimizer.masters[n]) for n, m in whole.optimizer.masters.items())


def test_the_best_model_of_an_earlier_round_is_whole(build: Build) -> None:
    state = build(optim={"steps": 8, "batch_size": 4, "learning_rate": 0.1, "schedule": "constant", "warmup": 0.0})
    at: dict[int, dict[str, torch.Tensor]] = {}
    for event in training(state):
        if event.event == "saved":
            at[event.step] = weights(state)
    state.best_step = 2  # two rounds before the last
    assert choose_weights(state, print) == 2
    assert all(torch.equal(tensor, at[2][name]) for name, tensor in weights(state).items())
    assert any(not torch.equal(tensor, at[8][name]) for name, tensor in weights(state).items())
