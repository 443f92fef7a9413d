"""Labelled rows that are no conversations: texts with labels, tagged words, questions, source and target, plain text.

Every kind of row says where it stands (`at`), what of it is the input (`asked`: rows with the same input never straddle
a split), what it holds (`content`: for fingerprints), what is wrong with it and why it may be unusable.
"""

from dataclasses import dataclass

from tutelage.data.types import At, Dropped
from tutelage.errors import Problem


def _blank(at: At, **texts: str) -> Dropped | None:
    for name, text in texts.items():
        if not text.strip():
            return Dropped(f"empty_{name}", at, f"its {name} is blank")
    return None


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, or a pair of texts, with its labels; or with a `score` in their place."""

    text: str
    at: At
    labels: tuple[str, ...] = ()
    score: float | None = None
    second: str | None = None
    several: bool = False  # the labels stood in a list: any number of them may hold

    def asked(self) -> list[str]:
        """The texts."""
        return [self.text] if self.second is None else [self.text, self.second]

    def content(self) -> list[object]:
        """Texts, labels and score."""
        return [self.asked(), sorted(self.labels), self.score]

    def problems(self) -> list[Problem]:
        """A label that stands twice."""
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        return [Problem(f"the label {label!r} stands twice", str(self.at), fix="give it once") for label in twice]

    def drop(self) -> Dropped | None:
        """A blank text."""
        return _blank(self.at, text=self.text)


@dataclass(frozen=True, slots=True)
class Preference:
    """Two texts, of which the first is the better one."""

    better: str
    worse: str
    at: At
    prompt: str = ""

    def asked(self) -> list[str]:
        """The prompt, or the texts where there is none."""
        return [self.prompt] if self.prompt.strip() else [self.better, self.worse]

    def content(self) -> list[object]:
        """Prompt and texts."""
        return [self.prompt, self.better, self.worse]

    def problems(self) -> list[Problem]:
        """Two equal texts."""
        if self.better != self.worse:
            return []
        return [Problem("the better and the worse text are the same", str(self.at), fix="remove the row")]

    def drop(self) -> Dropped | None:
        """A blank text."""
        return _blank(self.at, text=self.better) or _blank(self.at, text=self.worse)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Words with a tag each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    at: At

    def asked(self) -> list[str]:
        """The words as one text."""
        return [" ".join(self.words)]

    def content(self) -> list[object]:
        """Words and tags."""
        return [list(self.words), list(self.tags)]

    def problems(self) -> list[Problem]:
        """Words and tags of unequal number, and blank words."""
        if len(self.words) != len(self.tags):
            what = f"the row has {len(self.words)} words and {len(self.tags)} tags"
            return [Problem(what, str(self.at), "each word has one tag", "write as many tags as words")]
        blank = [index for index, word in enumerate(self.words) if not word.strip()]
        return [Problem(f"word {index + 1} is blank", str(self.at), fix="remove it and its tag") for index in blank[:3]]

    def drop(self) -> Dropped | None:
        """No words."""
        return None if self.words else Dropped("no_words", self.at, "it has no words")


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a context. `answers` are (text, start) with the character where each begins; none: no answer."""

    context: str
    question: str
    at: At
    answers: tuple[tuple[str, int], ...] = ()
    id: str = ""

    def asked(self) -> list[str]:
        """Question and context."""
        return [self.question, self.context]

    def content(self) -> list[object]:
        """Everything but the identifier."""
        return [self.context, self.question, [list(answer) for answer in self.answers]]

    def problems(self) -> list[Problem]:
        """Answers that are blank or do not stand where they say."""
        found = []
        for text, start in self.answers:
            if not text.strip():
                found.append(
                    Problem("an answer is blank", str(self.at), fix="leave `answers` empty where there is none")
                )
            elif start < 0 or self.context[start : start + len(text)] != text:
                place = self.context.find(text)
                why = f"its context has {self.context[max(start, 0) : max(start, 0) + len(text)]!r} there"
                fix = (
                    f"`answer_start` should be {place}" if place >= 0 else "the answer must be copied from the context"
                )
                what = f"the answer {text[:60]!r} does not stand at character {start} of its context"
                found.append(Problem(what, str(self.at), why, fix))
        return found

    def drop(self) -> Dropped | None:
        """A blank question or context."""
        return _blank(self.at, question=self.question) or _blank(self.at, context=self.context)


@dataclass(frozen=True, slots=True)
class Pair:
    """A source text and the target text to write for it; `targets` has more than one where several references exist."""

    source: str
    targets: tuple[str, ...]
    at: At

    def asked(self) -> list[str]:
        """The source."""
        return [self.source]

    def content(self) -> list[object]:
        """Source and targets."""
        return [self.source, list(self.targets)]

    def problems(self) -> list[Problem]:
        """An empty reference."""
        blank = [index for index, target in enumerate(self.targets) if not target.strip()]
        if not self.targets or blank:
            which = f"target {blank[0] + 1}" if len(self.targets) > 1 else "the target"
            return [
                Problem(f"{which} of this row is empty", str(self.at), "there is nothing to write", "remove the row")
            ]
        return []

    def drop(self) -> Dropped | None:
        """A blank source."""
        return _blank(self.at, source=self.source)


@dataclass(frozen=True, slots=True)
class Plain:
    """A text without a label."""

    text: str
    at: At

    def asked(self) -> list[str]:
        """The text."""
        return [self.text]

    def content(self) -> list[object]:
        """The text."""
        return [self.text]

    def problems(self) -> list[Problem]:
        """None."""
        return []

    def drop(self) -> Dropped | None:
        """A blank text."""
        return _blank(self.at, text=self.text)
