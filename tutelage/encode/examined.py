"""The clauses of the token contract, each counted over all rows, a block of tokens or a conversation at a time."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.data.types import Conversation
from tutelage.encode.rows import Block, Rows
from tutelage.encode.template import ROLES, Template, as_dict
from tutelage.errors import Problem

COMPARED_ROWS = 64  # rows whose ids are compared with transformers' own apply_chat_template
SHOWN = 20  # problems of a clause that are kept; the others are counted
# Complete templates inside user data: the model would be shown two templates, one within the other. Each with a text
# that must stand in it, which is looked for first.
BAKED = (
    ("Alpaca", "### Instruction:", re.compile(r"### Instruction:.*### Response:", re.S)),
    ("ChatML", "<|im_start|>", re.compile(r"<\|im_start\|>.*<\|im_end\|>", re.S)),
    ("Llama 2", "[INST]", re.compile(r"\[INST\].*\[/INST\]", re.S)),
    ("Llama 3", "<|start_header_id|>", re.compile(r"<\|start_header_id\|>.*<\|eot_id\|>", re.S)),
    ("Gemma", "<start_of_turn>", re.compile(r"<start_of_turn>.*<end_of_turn>", re.S)),
    ("Human/Assistant", "Human:", re.compile(r"^(### )?Human:.*^(### )?Assistant:\s*$", re.S | re.M)),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One clause of the contract; `problems` are its violations with their rows."""

    name: str
    meaning: str
    count: int  # how many things were looked at
    problems: tuple[Problem, ...] = ()
    violations: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing violates it."""
        return self.violations == 0


class Clause:
    """A check while its rows are looked at."""

    def __init__(self, name: str, meaning: str) -> None:
        self.name, self.meaning = name, meaning
        self.count = self.violations = 0
        self.problems: list[Problem] = []

    def violated(self, problem: Callable[[], Problem]) -> None:
        """Note a violation; its sentence is made for the first ones only."""
        self.violations += 1
        if len(self.problems) < SHOWN:
            self.problems.append(problem())

    def check(self) -> Check:
        """What was found."""
        return Check(self.name, self.meaning, self.count, tuple(self.problems), self.violations)


class Examined:
    """The counts and checks of tokens."""

    def __init__(self, template: Template, rows: Rows) -> None:
        self.rows = rows
        self.stop_ids = np.array(sorted(template.stop_ids), dtype=np.int64)
        pad, self.bos = template.tokenizer.pad_token_id, template.tokenizer.bos_token_id
        self.pad = None if pad in template.stop_ids else pad
        self.target_tokens = 0
        self.roles = np.zeros(len(ROLES), dtype=np.int64)
        self.end_of_turn = Clause(
            "end_of_turn", "every trained turn that was not cut ends in a trained end-of-turn token"
        )
        self.has_target = Clause("has_target", "no row without a target")
        self.no_padding = Clause("no_padding", "padding is never trained")
        self.one_bos = Clause("one_bos", "no doubled BOS")

    def add(self, block: Block) -> None:
        """Look at the tokens of some rows."""
        starts, stops = block.starts[:-1], block.starts[1:]
        trained = block.weights != 0
        self.roles += np.bincount(block.roles, minlength=len(ROLES))
        self._turns(block, trained)
        targets = trained.copy()
        targets[starts[starts < stops]] = False  # the first token of a row has nothing before it to be predicted from
        self.target_tokens += int(np.count_nonzero(targets))
        for clause in (self.has_target, self.no_padding, self.one_bos):
            clause.count += len(starts)
        for i in np.flatnonzero(block.per_row(targets) == 0).tolist():
            self.has_target.violated(lambda i=i: Problem(  # type: ignore[misc]
                "this row has no target token", self._at(block, i), "every weight in it is 0",
                "remove the row, or weight a turn",
            ))  # fmt: skip
        if self.pad is not None:
            for i in np.flatnonzero(block.per_row((block.ids == self.pad) & trained)).tolist():
                self.no_padding.violated(lambda i=i: Problem(  # type: ignore[misc]
                    "padding is trained in this row", self._at(block, i), fix="remove the padding text from the row"
                ))  # fmt: skip
        if self.bos is not None:
            two = np.flatnonzero(stops - starts > 1)
            twice = (block.ids[starts[two]] == self.bos) & (block.ids[starts[two] + 1] == self.bos)
            for i in two[twice].tolist():
                self.one_bos.violated(lambda i=i: Problem(  # type: ignore[misc]
                    "this row begins with two BOS tokens", self._at(block, i),
                    fix="remove the BOS text from the data or template",
                ))  # fmt: skip

    def _turns(self, block: Block, trained: NDArray[np.bool_]) -> None:
        """Each unbroken stretch of trained tokens of a row is a turn."""
        if not len(trained):
            return
        first, last = np.zeros(len(trained), bool), np.zeros(len(trained), bool)
        filled = np.diff(block.starts) > 0
        first[block.starts[:-1][filled]] = True
        last[block.starts[1:][filled] - 1] = True
        begin = np.flatnonzero(trained & (first | ~np.concatenate(([False], trained[:-1]))))
        end = np.flatnonzero(trained & (last | ~np.concatenate((trained[1:], [False]))))
        self.end_of_turn.count += len(begin)
        for k in np.flatnonzero(~np.isin(block.ids[end], self.stop_ids)).tolist():
            i = int(np.searchsorted(block.starts, end[k], side="right")) - 1
            if block.cut[i] and end[k] == block.starts[i + 1] - 1:
                continue
            start = int(begin[k] - block.starts[i])
            self.end_of_turn.violated(lambda i=i, start=start: Problem(  # type: ignore[misc]
                f"the turn at token {start} does not end in a trained end-of-turn token", self._at(block, i),
                "a model trained so never learns to stop",
                "use a chat template that closes the assistant's turn with the model's end-of-turn token",
            ))  # fmt: skip

    def _at(self, block: Block, i: int) -> str:
        return str(self.rows.at(block.first + i))


class Texts:
    """The checks of texts."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.seen = 0
        self.added: str | None = None  # what the template writes before the first message, e.g. its own system prompt
        self.one_template = Clause("one_template", "no second template baked into the data")
        self.shows_tools = Clause("shows_tools", "tools and their calls stand in the rendered text")
        self.same = Clause("same_as_transformers", "the same tokens as transformers' apply_chat_template")

    def add(self, row: Conversation) -> None:
        """Look at one row."""
        self._one_template(row)
        self._shows_tools(row)
        if self.seen < COMPARED_ROWS:
            self._same_as_transformers(row)
        if self.added is None and row.messages[0].role != "system":
            text = self.template.render_text(row.messages[:1], row.tools)
            self.added = text[: max(0, text.find(row.messages[0].content.strip()))]
        self.seen += 1

    def _one_template(self, row: Conversation) -> None:
        self.one_template.count += 1
        text = "\n".join([message.content for message in row.messages])
        name = next((name for name, part, pattern in BAKED if part in text and pattern.search(text)), None)
        if name:
            self.one_template.violated(lambda: Problem(
                f"an {name} template is baked into this row's text", str(row.at),
                "the model would see one template inside another, which it never sees when it is used",
                "give the plain question and answer, or allow it: task.allow: [one_template]",
            ))  # fmt: skip

    def _shows_tools(self, row: Conversation) -> None:
        """Templates without a place for tools leave calls out silently: the model would learn to answer with nothing."""
        calls = [call for message in row.messages for call in message.tool_calls]
        functions = [item["function"] for item in (*row.tools, *calls)]
        names = {str(function.get("name")) for function in functions if isinstance(function, dict)}
        if not names:
            return
        self.shows_tools.count += 1
        text = self.template.render_text(row.messages, row.tools)
        missing = sorted(name for name in names if name not in text)
        if missing:
            self.shows_tools.violated(lambda: Problem(
                f"the chat template leaves out the tool `{missing[0]}` of this row", str(row.at),
                "this model's template has no place for tools or their calls",
                "give one that has: task.chat_template: examples/templates/chatml_tools.jinja (for ChatML models)",
            ))  # fmt: skip

    def _same_as_transformers(self, row: Conversation) -> None:
        """Our ids against `apply_chat_template`, where the data holds no control-token text (there they must differ)."""
        template = self.template
        if template.guard_for(row) is not None:
            return
        self.same.count += 1
        theirs = template.tokenizer.apply_chat_template(
            [as_dict(message) for message in row.messages], tools=list(row.tools) or None, chat_template=template.text,
            return_dict=True,
        )["input_ids"]  # fmt: skip
        ours = template.tokenise([template.render_text(row.messages, row.tools)], [None])[0][0]
        if list(theirs) != ours:
            self.same.violated(lambda: Problem("transformers' own chat rendering gives other tokens", str(row.at)))
