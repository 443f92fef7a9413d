"""`POST /v1/tag`: entities in texts, by characters, each with its probability."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tutelage.data.formats.entities import WORD
from tutelage.data.rows import Tagged
from tutelage.data.types import At
from tutelage.serve.schema import Text
from tutelage.serve.task_shapes import MOST_INPUTS, Given, Outcome, TaskRequest, TaskResponse
from tutelage.tasks.opening import OpenedTask
from tutelage.tasks.schemes import spans
from tutelage.tasks.tag import Tagger, Tags
from tutelage.taskspec import TagSpec

MOST_WORDS = 1 << 13

Word = Annotated[Text, Field(min_length=1, max_length=1024, pattern=r"\S")]
Words = Annotated[list[Word], Field(min_length=1, max_length=MOST_WORDS)]
Place = tuple[int, int]  # the characters [start, end) of a word


class TagRequest(TaskRequest):
    """`POST /v1/tag`. A text is split into words and punctuation marks; a list of words is taken as it is."""

    input: Given | Annotated[list[Given | Words], Field(min_length=1, max_length=MOST_INPUTS)]

    def rows(self) -> list[str | list[str]]:
        """The inputs, one by one."""
        return [self.input] if isinstance(self.input, str) else list(self.input)


class FoundEntity(BaseModel):
    """One entity: the characters [start, end) of the text, counted as Unicode code points from 0."""

    label: str
    text: str
    start: int
    end: int
    score: float = Field(description="the mean probability of its words' tags")


class Tagging(BaseModel):
    """One text's entities. Of a list of words, `text` is the words with a space between."""

    index: int
    object: Literal["tagging"]
    text: str
    entities: list[FoundEntity]
    tags: list[str] | None = Field(description="the tag of each word, where words were given")


class TagResponse(TaskResponse):
    """The answer of `POST /v1/tag`."""

    data: list[Tagging]


class Marker:
    """Runs the task `tag`."""

    about = "marks entities in texts"
    route = "/v1/tag"
    context: int | None = None  # long texts are read in windows

    def __init__(self, opened: OpenedTask) -> None:
        assert isinstance(opened.task, Tagger)
        assert isinstance(opened.task.spec, TagSpec)
        self.opened = opened
        self.task = opened.task
        self.labels = sorted({kind for name in self.task.names for kind, _, _ in spans([name])})

    def compute(self, rows: Sequence[str | list[str]]) -> list[Outcome]:
        """Each input's item, by the tags that evaluation sees."""
        read = [_split(row) for row in rows]
        tagged = [
            Tagged(tuple(text[start:stop] for start, stop in places), ("O",) * len(places), At("request", number))
            for number, (text, places) in enumerate(read)
        ]
        found = iter(self.task.tag(self.opened.backbone, [row for row in tagged if row.words], self.opened.plan))
        outcomes = []
        for given, (text, places) in zip(rows, read):
            tags = next(found) if places else Tags((), (), 0)
            outcomes.append(Outcome(tags.tokens, _item(text, places, tags, not isinstance(given, str))))
        return outcomes


def _split(given: str | list[str]) -> tuple[str, list[Place]]:
    """The text, and where its words stand."""
    if isinstance(given, str):
        return given, [match.span() for match in WORD.finditer(given)]
    starts = itertools.accumulate((len(word) + 1 for word in given), initial=0)
    return " ".join(given), [(start, start + len(word)) for start, word in zip(starts, given)]


def _item(text: str, places: Sequence[Place], tags: Tags, with_tags: bool) -> dict[str, Any]:
    entities = []
    for kind, first, behind in spans(tags.names):
        start, end = places[first][0], places[behind - 1][1]
        score = sum(tags.chances[first:behind]) / (behind - first)
        entities.append({"label": kind, "text": text[start:end], "start": start, "end": end, "score": score})
    return {"object": "tagging", "text": text, "entities": entities, "tags": list(tags.names) if with_tags else None}
