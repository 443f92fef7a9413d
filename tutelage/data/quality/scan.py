"""One pass over rows: the faults that a row shows by itself, and what is remembered of it to find repeats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.data.quality import faults, near, personal
from tutelage.data.quality.findings import EXAMPLES, Tally, example
from tutelage.data.quality.keys import folded, key, spaced
from tutelage.data.quality.profile import Profile
from tutelage.data.quality.store import DTYPES, Facts, cut
from tutelage.data.quality.view import LABELLED, View, view
from tutelage.data.sources import Row
from tutelage.data.types import At
from tutelage.errors import DataError, Problem

ANSWER_MAY_BE_EMPTY = ("squad", "tagged", "entities")
LONG = 16_000  # characters of a row that is pointed out


@dataclass(frozen=True, slots=True)
class Scan:
    """What a run of rows of one file showed."""

    tally: Tally
    profile: Profile
    facts: Facts
    sketches: near.Sketches
    place: tuple[int, int]  # of its task


@dataclass(frozen=True, slots=True)
class Task:
    """Rows to scan: those of `file` (an index) in `part` (0: training), of a given or detected format."""

    rows: Sequence[Row | Problem]
    part: int
    file: int
    format: str | None
    threshold: float
    examples: int = EXAMPLES  # of a finding that are kept
    on: str = "both"  # near-duplicates are told by prompt and answer, or one of them
    chunk: int = 0  # the how manieth run of rows of its file
    failed: tuple[Problem, ...] = ()  # why the file could not be read further

    @property
    def place(self) -> tuple[int, int]:
        """File and chunk: results are put together in their order."""
        return self.file, self.chunk


@dataclass(frozen=True, slots=True)
class _Kept:
    row: int
    exact: int
    text: int
    prompt: int
    target: int
    length: int
    labelled: bool
    snippet: bytes
    spaced_prompt: str
    spaced_answer: str


def scan(task: Task) -> Scan:
    """Look at every row of `task` once."""
    tally, profile = Tally(most=task.examples), Profile()
    viewed: list[tuple[At, View]] = []
    for problem in task.failed:
        tally.add("unreadable_file", problem_example(problem))
    for item in task.rows:
        if isinstance(item, Problem):
            tally.add("unreadable_row", problem_example(item))
            continue
        at, row = item
        profile.add_row(row, at)
        try:
            viewed.append((at, view(row, at, task.format)))
        except DataError as error:
            kind = "missing_value" if all(_is_missing(problem) for problem in error.problems) else "wrong_format"
            tally.add(kind, problem_example(error.problems[0]))
    return look(viewed, task, tally, profile)


def look(viewed: Sequence[tuple[At, View]], task: Task, tally: Tally, profile: Profile) -> Scan:
    """The scan of rows that keep their formats; findings and counts are added to `tally` and `profile`."""
    kept: list[_Kept] = []
    for at, seen in viewed:
        kept.append(_look(seen, at, tally))
        profile.add(seen, at, kept[-1].exact)
    return Scan(tally, profile, _facts(kept, task), sketch(kept, task), task.place)


def problem_example(problem: Problem) -> dict[str, object]:
    """A problem as an example: its place, what it is, and the fix."""
    source, _, row = problem.where.rpartition(":")
    at = At(source, int(row)) if source and row.isdigit() else At(problem.where, 1)
    return example(at, detail=f"{problem.what}: {problem.why}" if problem.why else problem.what, fix=problem.fix)


def _is_missing(problem: Problem) -> bool:
    return "is missing" in problem.what or problem.why == "it is null"


def _look(seen: View, at: At, tally: Tally) -> _Kept:
    spaced_prompt, spaced_answer = spaced(seen.prompt), spaced(seen.answer or "")
    prompt_words, answer_words = spaced_prompt.split(), spaced_answer.split()
    for text in seen.texts:
        _look_at_text(text, at, tally)
    _look_for_blanks(seen, at, tally)
    if seen.answer is not None:
        _look_at_answer(seen, prompt_words, answer_words, at, tally)
    if seen.turns and not any(role == "user" for role, _ in seen.turns):
        tally.add("no_user_turn", example(at, seen.target))
    size = len(seen.prompt) + len(seen.answer or "")
    if size > LONG:
        tally.add("over_long", example(at, seen.prompt, f"{size:,} characters"))
    target = folded(seen.target)
    prompt_key = key(" ".join(prompt_words))
    return _Kept(
        at.row,
        key(seen.turns or seen.prompt, seen.answer, seen.label),
        key(prompt_key, " ".join(answer_words) if seen.answer is not None else [target]),
        prompt_key,
        key(target),
        len(seen.target),
        seen.label is not None,
        cut(seen.prompt or seen.target),
        spaced_prompt,
        spaced_answer,
    )


# Checks of one text: the kind of finding and the function that looks for it.
TEXT_CHECKS = (
    ("encoding_fault", faults.encoding_fault),
    ("control_character", faults.control_character),
    ("markup", faults.markup),
    ("template_text", faults.template_text),
)
ANSWER_CHECKS = (("refusal", faults.refusal), ("truncated_answer", faults.truncated))


def _look_at_text(text: str, at: At, tally: Tally) -> None:
    text = text[: faults.MANY]
    for kind, check in TEXT_CHECKS:
        if found := check(text):
            tally.add(kind, example(at, detail=found))
    hits = list(personal.find(text))
    for secret, kind in ((True, "secret"), (False, "personal_data")):
        first = next((hit for hit in hits if hit.secret == secret), None)
        if first:
            tally.add(kind, example(at, detail=f"{first.sort}: {personal.masked(text, first)}"))


def _look_for_blanks(seen: View, at: At, tally: Tally) -> None:
    if not seen.prompt.strip():
        tally.add("empty_value", example(at, seen.target, "nothing stands before the answer"))
    if seen.answer is not None and not seen.answer.strip() and seen.format not in ANSWER_MAY_BE_EMPTY:
        tally.add("empty_value", example(at, seen.prompt, "the answer is empty"))
    if seen.label is not None and not seen.label.strip():
        tally.add("empty_value", example(at, seen.prompt, "the label is empty"))
    if seen.turns and seen.answer is None:
        tally.add("missing_value", example(at, seen.prompt, "no turn is the assistant's"))
    if seen.format == LABELLED and seen.label is None:
        tally.add("missing_value", example(at, seen.prompt, "the label is null"))


def _look_at_answer(seen: View, prompt: list[str], answer: list[str], at: At, tally: Tally) -> None:
    for kind, check in ANSWER_CHECKS:
        if found := check(seen.answer or ""):
            tally.add(kind, example(at, seen.answer or "", found))
    if found := faults.copied_prompt(prompt, answer):
        tally.add("copied_prompt", example(at, seen.answer or "", found))
    if found := faults.repetition(answer):
        tally.add("repetition", example(at, seen.answer or "", found))


def _facts(kept: list[_Kept], task: Task) -> Facts:
    count = len(kept)
    columns = {
        name: np.array([getattr(each, name) for each in kept], dtype=DTYPES[name])
        for name in ("row", "exact", "text", "prompt", "target", "length", "labelled", "snippet")
    }
    part, file = np.full(count, task.part, np.int8), np.full(count, task.file, np.int32)
    return Facts(part=part, file=file, **columns)


def sketch(kept: Sequence[_Kept], task: Task) -> near.Sketches:
    """The sketches of these rows, of what near-duplicates are told by."""
    prompts = [each.spaced_prompt if task.on != "answer" else "" for each in kept]
    answers = [each.spaced_answer if task.on != "prompt" else "" for each in kept]
    return near.sketch(prompts, answers, task.threshold)
