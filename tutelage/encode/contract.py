"""The token contract: what will be trained, counted, shown and checked before training starts."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutelage.data.types import Conversation, Dropped
from tutelage.encode.template import ROLES, Template, as_dict
from tutelage.encode.types import Encoded
from tutelage.errors import CheckFailedError, Problem

COMPARED_ROWS = 64  # rows whose ids are compared with transformers' own apply_chat_template
# Complete templates inside user data: the model would be shown two templates, one within the other.
BAKED = (
    ("Alpaca", re.compile(r"### Instruction:.*### Response:", re.S)),
    ("ChatML", re.compile(r"<\|im_start\|>.*<\|im_end\|>", re.S)),
    ("Llama 2", re.compile(r"\[INST\].*\[/INST\]", re.S)),
    ("Llama 3", re.compile(r"<\|start_header_id\|>.*<\|eot_id\|>", re.S)),
    ("Gemma", re.compile(r"<start_of_turn>.*<end_of_turn>", re.S)),
    ("Human/Assistant", re.compile(r"^(### )?Human:.*^(### )?Assistant:\s*$", re.S | re.M)),
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


@dataclass(frozen=True, slots=True)
class Fitted:
    """Encoded rows that respect `max_tokens`, and what that cost."""

    rows: tuple[Encoded, ...]
    dropped: tuple[Dropped, ...]
    over_length: int
    cut: int
    encoded: int


@dataclass(frozen=True, slots=True)
class Contract:
    """Counts and checks over all training rows."""

    rows: int
    tokens: int
    target_tokens: int
    roles: dict[str, int]
    over_length: int
    over_length_share: float
    truncated: int
    longest: int
    added_by_template: str
    checks: tuple[Check, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The contract as contract.json holds it, without examples."""
        names = (
            "rows", "tokens", "target_tokens", "roles", "over_length", "over_length_share", "truncated", "longest",
            "added_by_template",
        )  # fmt: skip
        checks = [
            {"name": c.name, "passed": c.passed, "detail": c.meaning + (f": {c.violations} violations" if c.violations else ""),
             "count": c.count, "violations": c.violations, "problems": [str(p) for p in c.problems[:5]]}
            for c in self.checks
        ]  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "checks": checks}

    def enforce(self, allow: Iterable[str]) -> None:
        """Raise with every violation, except of the checks named in `allow`."""
        failed = [check for check in self.checks if not check.passed and check.name not in set(allow)]
        if failed:
            problems = [problem for check in failed for problem in check.problems]
            raise CheckFailedError(problems, total=sum(check.violations for check in failed))


def fit(rows: Sequence[Encoded], max_tokens: int, over_length: str) -> Fitted:
    """The rows that fit; longer ones are dropped, or cut at the end (and dropped if no target is left)."""
    kept, dropped, cut, long = [], [], 0, 0
    for row in rows:
        if len(row.ids) <= max_tokens:
            kept.append(row)
            continue
        long += 1
        if over_length == "drop":
            detail = f"{len(row.ids)} tokens, max_tokens is {max_tokens}"
            dropped.append(Dropped("over_length", row.at, detail))
        elif not row.weights[1:max_tokens].any():
            dropped.append(Dropped("no_target_after_cut", row.at, f"its first target lies behind token {max_tokens}"))
        else:
            cut += 1
            n = max_tokens
            kept.append(Encoded(row.ids[:n], row.weights[:n], row.roles[:n], row.at, cut=True))
    return Fitted(tuple(kept), tuple(dropped), long, cut, len(rows))


def examine(template: Template, conversations: Sequence[Conversation], fitted: Fitted) -> Contract:
    """Count and check everything that will be trained."""
    rows = fitted.rows
    roles: Counter[str] = Counter()
    for row in rows:
        roles.update({ROLES[i]: int(n) for i, n in enumerate(np.bincount(row.roles, minlength=len(ROLES))) if n})
    checks = (
        _end_of_turn(template, rows), _has_target(rows), _no_padding(template, rows), _one_bos(template, rows),
        _one_template(conversations), _shows_tools(template, conversations), _same_as_transformers(template, conversations),
        Check("prompt_is_prefix", "the prompt at inference is token-identical to the training prefix", len(rows)),
    )  # fmt: skip
    return Contract(
        rows=len(rows),
        tokens=sum(len(row.ids) for row in rows),
        target_tokens=sum(int(np.count_nonzero(row.weights[1:])) for row in rows),
        roles=dict(sorted(roles.items())),
        over_length=fitted.over_length,
        over_length_share=fitted.over_length / max(1, fitted.encoded),
        truncated=fitted.cut,
        longest=max((len(row.ids) for row in rows), default=0),
        added_by_template=_added(template, conversations),
        checks=checks,
    )


def _check(name: str, meaning: str, count: int, problems: list[Problem]) -> Check:
    return Check(name, meaning, count, tuple(problems[:20]), len(problems))


def trained_runs(row: Encoded) -> list[tuple[int, int]]:
    """[start, stop) of each unbroken stretch of trained tokens: one per trained turn."""
    trained = np.concatenate(([0], (row.weights != 0).astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(trained))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _end_of_turn(template: Template, rows: Sequence[Encoded]) -> Check:
    problems, count = [], 0
    for row in rows:
        for start, stop in trained_runs(row):
            count += 1
            if int(row.ids[stop - 1]) not in template.stop_ids and not (row.cut and stop == len(row.ids)):
                problems.append(Problem(
                    f"the turn at token {start} does not end in a trained end-of-turn token", str(row.at),
                    "a model trained so never learns to stop",
                    "use a chat template that closes the assistant's turn with the model's end-of-turn token",
                ))  # fmt: skip
    return _check(
        "end_of_turn", "every trained turn that was not cut ends in a trained end-of-turn token", count, problems
    )


def _has_target(rows: Sequence[Encoded]) -> Check:
    problems = [
        Problem(
            "this row has no target token", str(row.at), "every weight in it is 0", "remove the row, or weight a turn"
        )
        for row in rows
        if not row.weights[1:].any()
    ]
    return _check("has_target", "no row without a target", len(rows), problems)


def _no_padding(template: Template, rows: Sequence[Encoded]) -> Check:
    pad = template.tokenizer.pad_token_id
    problems = [
        Problem("padding is trained in this row", str(row.at), fix="remove the padding text from the row")
        for row in rows
        if pad is not None and pad not in template.stop_ids and ((row.ids == pad) & (row.weights != 0)).any()
    ]
    return _check("no_padding", "padding is never trained", len(rows), problems)


def _one_bos(template: Template, rows: Sequence[Encoded]) -> Check:
    bos = template.tokenizer.bos_token_id
    problems = [
        Problem("this row begins with two BOS tokens", str(row.at), fix="remove the BOS text from the data or template")
        for row in rows
        if bos is not None and len(row.ids) > 1 and row.ids[0] == row.ids[1] == bos
    ]
    return _check("one_bos", "no doubled BOS", len(rows), problems)


def _one_template(conversations: Sequence[Conversation]) -> Check:
    problems = []
    for row in conversations:
        text = "\n".join(message.content for message in row.messages)
        name = next((name for name, pattern in BAKED if pattern.search(text)), None)
        if name:
            problems.append(Problem(
                f"an {name} template is baked into this row's text", str(row.at),
                "the model would see one template inside another, which it never sees when it is used",
                "give the plain question and answer, or allow it: task.allow: [one_template]",
            ))  # fmt: skip
    return _check("one_template", "no second template baked into the data", len(conversations), problems)


def _shows_tools(template: Template, conversations: Sequence[Conversation]) -> Check:
    """Templates without a place for tools leave calls out silently: the model would learn to answer with nothing."""
    problems, count = [], 0
    for row in conversations:
        calls = [call for message in row.messages for call in message.tool_calls]
        functions = [item["function"] for item in (*row.tools, *calls)]
        names = {str(function.get("name")) for function in functions if isinstance(function, dict)}
        if not names:
            continue
        count += 1
        text = template.render_text(row.messages, row.tools)
        missing = sorted(name for name in names if name not in text)
        if missing:
            problems.append(Problem(
                f"the chat template leaves out the tool `{missing[0]}` of this row", str(row.at),
                "this model's template has no place for tools or their calls",
                "give one that has: task.chat_template: examples/templates/chatml_tools.jinja (for ChatML models)",
            ))  # fmt: skip
    return _check("shows_tools", "tools and their calls stand in the rendered text", count, problems)


def _same_as_transformers(template: Template, conversations: Sequence[Conversation]) -> Check:
    """Our ids against `apply_chat_template`, where the data holds no control-token text (there they must differ)."""
    problems, count = [], 0
    for row in conversations[:COMPARED_ROWS]:
        if template._guard_for(row) is not None:
            continue
        count += 1
        messages = [as_dict(message) for message in row.messages]
        theirs = template.tokenizer.apply_chat_template(
            messages, tools=list(row.tools) or None, chat_template=template.text, return_dict=True
        )["input_ids"]
        ours = template.tokenise([template.render_text(row.messages, row.tools)], [None])[0][0]
        if list(theirs) != ours:
            problems.append(Problem("transformers' own chat rendering gives other tokens", str(row.at)))
    return _check("same_as_transformers", "the same tokens as transformers' apply_chat_template", count, problems)


def _added(template: Template, conversations: Sequence[Conversation]) -> str:
    """What the template writes before the first message, e.g. a system prompt of its own."""
    for row in conversations:
        if row.messages[0].role != "system":
            text = template.render_text(row.messages[:1], row.tools)
            return text[: max(0, text.find(row.messages[0].content.strip()))]
    return ""
