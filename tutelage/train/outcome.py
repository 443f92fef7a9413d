"""The end of a run: its model on disk, and its answers to the recipe's sample prompts."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from tutelage.errors import OutputError
from tutelage.generate.answer import answer
from tutelage.methods import METHODS
from tutelage.recipe import Recipe
from tutelage.runs import ALL_TASKS, TASK, fsync_folder, read_json, write_json
from tutelage.tasks.chat import conversations
from tutelage.tasks.mixed import Mixed
from tutelage.taskspec import ChatSpec
from tutelage.train import checkpoint
from tutelage.train.loop import TrainState
from tutelage.train.material import Material
from tutelage.train.setup import set_training


def write_model(folder: Path, recipe: Recipe, material: Material, state: TrainState, say: Callable[[str], None]) -> int:
    """Write model/: the best checkpoint's model, or the last where nothing was validated; returns its step."""
    chosen = choose_weights(state, say)
    set_training(state.backbone.model, False)
    state.backbone.model.set_attn_implementation(state.backbone.attention)
    temporary, final = folder / ".model.tmp", folder / "model"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        METHODS.get(recipe.method.kind).save(
            state.backbone.model, recipe.method, temporary, base=base_name(recipe, material)
        )
        if material.task.head.kind == "seq2seq":  # an adapter folder has none otherwise
            state.backbone.model.generation_config.save_pretrained(temporary)
        tokenizer = material.task.tokenizer
        if material.task.template is not None:
            tokenizer.chat_template = material.task.template.text
        tokenizer.save_pretrained(temporary)
        write_json(temporary / TASK, material.task.spec.model_dump(mode="json"))
        if isinstance(material.task, Mixed) and len(material.task.members) > 1:
            specs = [member.task.spec.model_dump(mode="json") for member in material.task.members]
            write_json(temporary / ALL_TASKS, specs)
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        fsync_folder(folder)
    except (OSError, SafetensorError) as error:  # safetensors wraps a full disk into an error of its own
        shutil.rmtree(temporary, ignore_errors=True)
        raise OutputError(
            "the model could not be written", where=str(final), why=getattr(error, "strerror", None) or str(error),
            fix="free some space and run the same command again: the last checkpoint is complete",
        ) from error  # fmt: skip
    return chosen


def choose_weights(state: TrainState, say: Callable[[str], None]) -> int:
    """Load the best checkpoint's weights and return its step; the last step's, said aloud, if it was lost."""
    if state.best_step in (None, state.step):
        return state.step
    try:
        best = checkpoint.load(state.store / f"step-{state.best_step:08d}")
    except ValueError as error:
        say(
            f"warning: the best checkpoint, of step {state.best_step}, cannot be read ({error}): "
            f"model/ is that of the last one, step {state.step}"
        )
        return state.step
    state.optimizer.load(best.tensors, moments=False)
    return best.step


def base_name(recipe: Recipe, material: Material) -> str:
    """What an adapter names as its base: the folder, or for hub and catalogue models the name others can use."""
    hub = material.fetched.source.removeprefix("hub:") if material.fetched.source.startswith("hub:") else None
    return hub.partition("@")[0] if hub else str(material.fetched.path.resolve())


def answer_samples(folder: Path, recipe: Recipe, material: Material, state: TrainState, when: str) -> None:
    """Answer the recipe's sample prompts greedily with the model as it is now, into samples.json."""
    if not recipe.samples or not isinstance(recipe.task, ChatSpec):
        return
    path = folder / "samples.json"
    known = {sample["prompt"]: sample for sample in read_json(path)} if path.is_file() else {}
    implementation = state.backbone.model.config._attn_implementation
    state.backbone.model.set_attn_implementation(state.backbone.attention)
    set_training(state.backbone.model, False)
    references = {
        row.messages[0].content: row.messages[1].content
        for row in conversations(material.prepared.validation)
        if len(row.messages) > 1
    }
    samples = []
    for prompt in recipe.samples:
        sample = known.get(
            prompt, {"prompt": prompt, "before": None, "after": None, "reference": references.get(prompt)}
        )
        sample[when] = answer(state.backbone.model, material.template, prompt, system=recipe.task.system)
        samples.append(sample)
    state.backbone.model.set_attn_implementation(implementation)
    set_training(state.backbone.model)
    write_json(path, samples)
