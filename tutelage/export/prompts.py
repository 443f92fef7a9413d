"""What the parity gate replays: the run's held-out rows, or built-in prompts, and texts that are hard to tokenise."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tutelage.data.prepare import prepare
from tutelage.data.types import At, Conversation, Message, Row
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded
from tutelage.errors import DataError, TutelageError, UsageError
from tutelage.evaluate.rows import read_rows, recipe_of
from tutelage.methods.opening import Located
from tutelage.recipe import ChatSpec, DataSpec, Recipe, read_recipe
from tutelage.tasks import chat
from tutelage.taskspec import TaskSpec

BUILT_IN = [
    ("Why is the sky blue?", "Sunlight is scattered by the air, and blue light is scattered most."),
    ("Write a short note to a customer whose parcel is late.", "We are sorry. Your parcel arrives on Friday."),
    ("What is 17 + 25?", "17 + 25 = 42."),
    ("List three primary colours.", "1. red\n2. yellow\n3. blue"),
    ("Translate into German: good morning", "Guten Morgen"),
    ("Give me a JSON object with the key city.", '{"city": "Paris"}'),
    ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet."),
    ("Summarise: The meeting was moved from Monday to Tuesday.", "The meeting is on Tuesday."),
    ("What does `len([1, 2])` return in Python?", "It returns 2."),
    ("Name an animal that can fly.", "A sparrow."),
    ("Is water wet? Answer yes or no.", "Yes."),
    ("Continue: once upon a time", "there was a fox who lived by the river."),
]
FRAGMENTS = [
    "The quick brown fox", "doesn't", "they're", "I'LL", "x'", "2024-11-24", "3.14159", "1,234,567", "½", "Ⅷ", "٣٤", "0x1F",
    "\n", "\n\n", "\r\n", "\t", "  ", "    ", "\u00a0", "\u2009", "\u200b", "naïve", "Straße", "ﬁne", "Ångström", "e\u0301",
    "東京タワー", "你好世界", "안녕하세요", "שלום", "مرحبا", "हिन्दी", "ไทย", "😀", "👩‍🚀", "🏳️‍🌈", "…", "—", "“quoted”",
    "¿Qué?", "#include <stdio.h>",
    "def f(x):\n    return x**2", "{\"a\": [1, 2]}", "<b>bold</b>", "https://example.org/a?b=c&d=%20",
    "user@example.org", "C:\\temp\\n",
    "$12.50", "50%", "==>", "!!!", "???", "...", "a" * 40, "ABC", "camelCaseWord", "snake_case_word", "\u0301",
    "\ufeff", "\ufffd", "\x7f", "𝔘𝔫𝔦",
    "<|im_start|>", "<|im_end|>", "</s>", "<pad>", "_", "__init__", "'", "\"", "`", "~", "^", "|",
]  # fmt: skip


def held_out(
    run: Path | None, template: Template, count: int, say: Callable[[str], None], data: str | None = None
) -> tuple[list[Encoded], bool]:
    """At most `count` encoded rows and whether they were held out: those of the file `data`, else of the run.

    Says why where there are none of either.
    """
    recipe, why = _recipe(run)
    if data is not None:
        given = prepare(DataSpec.model_validate({"train": data}), seed=0).train
        return _encoded(template, recipe, given)[:count], True
    if recipe is not None:
        try:
            prepared = prepare(recipe.data, seed=recipe.seed)
            rows = _encoded(template, recipe, (*prepared.validation, *prepared.test))
            kept = [row for row in rows if len(row.ids) <= recipe.max_tokens and any(row.weights)]
            if kept:
                return kept[:count], True
            why = "it held no rows out"
        except TutelageError as error:
            why = f"its data cannot be read any more: {error.problems[0].what}"
    say(f"parity: {len(BUILT_IN)} built-in prompts are replayed, because {why}")
    conversations = [
        Conversation((Message("user", question), Message("assistant", answer)), At("<built-in>", number))
        for number, (question, answer) in enumerate(BUILT_IN, 1)
    ]
    return template.encode(conversations)[:count], False


def held_out_rows(
    located: Located, spec: TaskSpec, most: int, data: str | None, say: Callable[[str], None]
) -> tuple[Sequence[Any], bool]:
    """Rows of the file `data`, else the run's held-out ones, else those it was trained on."""
    recipe = recipe_of(str(located.run)) if located.run is not None else None
    if data is None and recipe is None:
        raise UsageError("there is nothing to compare the export on", where="data", fix="--data FILE")
    try:
        return read_rows(data, recipe, spec, most=most).rows, True
    except DataError as error:
        if data is not None or recipe is None or not recipe.data.train:
            raise
        say(f"parity: rows of the training data are predicted, because {error.problems[0].what}")
        sources = recipe.data.train
        return read_rows(str(sources[0].path), None, spec, most=most).rows, False


def _encoded(template: Template, recipe: Recipe | None, rows: Sequence[Row]) -> list[Encoded]:
    """The conversations among the rows, as the run's task encodes them."""
    task = recipe.task if recipe is not None and isinstance(recipe.task, ChatSpec) else ChatSpec()
    asked = [chat.with_system(row, task.system) for row in chat.conversations(rows)]
    return template.encode(asked, task.train_on)


def _recipe(run: Path | None) -> tuple[Recipe | None, str]:
    if run is None:
        return None, "this is a model and not a run"
    try:
        return read_recipe(run / "recipe.yaml"), ""
    except TutelageError as error:
        return None, f"the run's recipe cannot be read: {error.problems[0].what}"


def hard_texts(count: int, seed: int = 0) -> list[str]:
    """Texts on which tokenizers that merely look alike differ: scripts, digits, spaces, line ends, control tokens' texts."""
    generator = random.Random(seed)
    glue = ["", " ", "", "\n", "  "]
    texts = [*FRAGMENTS]
    while len(texts) < count:
        parts = generator.choices(FRAGMENTS, k=generator.randint(2, 9))
        texts.append("".join(part + generator.choice(glue) for part in parts))
    return texts[:count]
