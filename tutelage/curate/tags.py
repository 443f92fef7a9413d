"""Wrong tags: confident learning per word, on the encoder's state at each word in its sentence."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.curate.embed import BATCH, MOST_TOKENS, Vectors
from tutelage.curate.labels import FOLDS, Issue, judge
from tutelage.data.rows import Tagged
from tutelage.errors import DataError
from tutelage.models.encoder import load_encoder

AROUND = 3  # words on both sides of a doubted one that are shown
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TagIssue:
    """A tag that is likely wrong; `word` counts from 1."""

    issue: Issue
    word: int


def embed_words(rows: Sequence[Tagged], folder: Path, say: Say) -> tuple[Vectors, NDArray[np.int64]]:
    """((words, hidden size) of unit vectors, (words, 2) of row and word): the mean state of each word's tokens.

    Words beyond the encoder's longest text have no vector.
    """
    model, tokenizer = load_encoder(folder)
    order = sorted((i for i, row in enumerate(rows) if row.words), key=lambda i: len(rows[i].words))
    vectors: list[Vectors] = []
    places: list[tuple[int, int]] = []
    for first in range(0, len(order), BATCH):
        chosen = order[first : first + BATCH]
        inputs = tokenizer(
            [list(rows[i].words) for i in chosen], is_split_into_words=True, padding=True, truncation=True,
            max_length=MOST_TOKENS, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        for place, row in enumerate(chosen):
            owners = np.array([-1 if owner is None else owner for owner in inputs.word_ids(place)])
            for word in np.unique(owners[owners >= 0]).tolist():
                mean = states[place, torch.from_numpy(owners == word)].mean(0)
                vectors.append(torch.nn.functional.normalize(mean, dim=-1).numpy())
                places.append((row, word))
        if first and first % (50 * BATCH) == 0:
            say(f"{first:,} of {len(rows):,} rows embedded")
    return np.stack(vectors).astype(np.float32), np.array(places, np.int64)


def find_tag_issues(rows: Sequence[Tagged], encoder: Path, say: Say, *, seed: int = 0) -> list[TagIssue]:
    """The likely wrong tags of `rows`, the least probable first; a row's words are judged by models without that row.

    Tags with fewer words than there are folds cannot be judged and are left out.
    """
    counts = Counter(tag for row in rows for tag in row.tags)
    names = sorted(tag for tag, count in counts.items() if count >= FOLDS)
    if len(names) < 2 or len(rows) < FOLDS:
        raise DataError(
            "tags cannot be judged", where=str(rows[0].at) if rows else "", fix="leave --labels out",
            why=f"of {len(rows)} rows, {len(names)} tags stand at {FOLDS} words or more; {FOLDS} rows and two tags are needed",
        )  # fmt: skip
    vectors, places = embed_words(rows, encoder, say)
    number = {name: index for index, name in enumerate(names)}
    tags = np.array([number.get(rows[row].tags[word], -1) for row, word in places.tolist()])
    vectors, places, tags = vectors[tags >= 0], places[tags >= 0], tags[tags >= 0]
    ranked, probabilities = judge(vectors, tags, seed=seed, groups=places[:, 0])
    suggested = probabilities.argmax(axis=1)
    found = []
    for i in ranked.tolist():
        row, word = rows[places[i, 0]], int(places[i, 1])
        near = [
            *row.words[max(0, word - AROUND) : word],
            f"[{row.words[word]}]",
            *row.words[word + 1 : word + 1 + AROUND],
        ]
        issue = Issue(row.at, " ".join(near), names[tags[i]], names[suggested[i]], float(probabilities[i, tags[i]]))
        found.append(TagIssue(issue, word + 1))
    return found
