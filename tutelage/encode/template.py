"""Chat to tokens: renders conversations with the model's own template and says which tokens are trained.

The mask comes from text, never from counting tokens: with P = render(messages before a turn, generation prompt) and
C = render(messages up to and with it), the turn is C without P, and both must be prefixes of the whole rendering.
The whole text is tokenised once and a token is trained if its characters lie in a turn. Templates with
`{% generation %}` markers name the characters themselves. Where a template rewrites history (reasoning that is
stripped from earlier turns), a row becomes one example per turn.
"""

import copy
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from tutelage.data.types import At, Conversation, Message
from tutelage.encode.types import Encoded
from tutelage.errors import MAX_PROBLEMS, CheckFailedError, DataError, ModelError, Problem

ROLES = ("template", "system", "user", "assistant", "tool")
# Private-use characters that mark user text; the first one that a row does not contain itself is taken.
GUARDS = ("\U0010fffd", "\U0010fffc", "\U000ffffd", "\U000ffffc")
PLACE = "\U000ffffb"  # stands for a message's text in a rendering without texts
GENERATION_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Turn:
    """Characters [start, stop) of a rendering that one assistant message produced, with its loss weight."""

    start: int
    stop: int
    weight: float


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training text. `turns` are what is trained; `spans` are (start, stop, role index) for statistics."""

    text: str
    turns: tuple[Turn, ...]
    prompts: tuple[int, ...]  # for each trained turn, where its inference prompt ends in `text`
    spans: tuple[tuple[int, int, int], ...]
    at: At
    guard: str | None  # the character that stands inside control-token text of the user's data, if there is any


@dataclass(frozen=True)
class Template:
    """A tokenizer with its chat template. `stop_ids` end a turn at inference; one of them must be trained."""

    tokenizer: Any
    text: str
    stop_ids: frozenset[int]
    control: re.Pattern[str] | None
    backend: Tokenizer = field(repr=False)  # without the truncation and padding that a tokenizer.json may ask for
    literal: Tokenizer = field(repr=False)  # the same, but control-token text is ordinary text to it
    piecewise: bool = True  # encoding between control tokens equals encoding the whole text
    leads: dict[tuple[str, ...], list[str]] = field(default_factory=dict, repr=False, compare=False)  # see leads_of

    @classmethod
    def of(cls, tokenizer: Any, *, eos_ids: int | Sequence[int] | None = None, text: str | None = None) -> "Template":
        """The template of `tokenizer`, or `text` in its place; `eos_ids` are the model's own stop ids."""
        eos_ids = (
            (eos_ids,) if isinstance(eos_ids, int) else tuple(eos_ids or ())
        )  # generation configs hold any of these
        text = text or tokenizer.chat_template
        if isinstance(text, dict):
            text = text.get("default")
        if not text:
            raise ModelError(
                "this model's tokenizer has no chat template",
                where=str(tokenizer.name_or_path or ""),
                why="without one nobody knows how a turn begins and ends",
                fix="choose an instruction-tuned model, or give `task.chat_template: FILE.jinja`",
            )
        backend = copy.deepcopy(tokenizer.backend_tokenizer)
        backend.no_padding()
        backend.no_truncation()
        literal = Tokenizer.from_str(backend.to_str())
        literal.encode_special_tokens = True
        special = sorted((t.content for t in backend.get_added_tokens_decoder().values() if t.special), key=len)
        control = re.compile("|".join(re.escape(t) for t in reversed(special))) if special else None
        draft = cls(tokenizer, text, frozenset(eos_ids), control, backend, literal)
        try:
            ends = draft._end_of_turn()
            probe = draft.render_text([Message("user", "a b\n\n3. c"), Message("assistant", " d'e  f")], ())
        except Exception as error:  # a template may raise anything
            raise ModelError(
                "this model's chat template cannot write a question and its answer",
                where=str(tokenizer.name_or_path or ""), why=" ".join(f"{type(error).__name__}: {error}".split())[:300],
                fix="choose another model, or give `task.chat_template: FILE.jinja`",
            ) from error  # fmt: skip
        stop = {i for i in (*eos_ids, tokenizer.eos_token_id) if i is not None} | ends
        same = draft._ids_between_controls(probe, "")[0] == backend.encode(probe, add_special_tokens=False).ids
        return cls(tokenizer, text, frozenset(stop), control, backend, literal, same)

    def _end_of_turn(self) -> set[int]:
        """The control token that the template writes right after an assistant's answer."""
        answer = "zqxzqx"
        text = self.render_text([Message("user", "q"), Message("assistant", answer)], ())
        rest = text[text.rfind(answer) + len(answer) :]
        match = self.control.match(rest.lstrip()) if self.control else None
        return {self.tokenizer.convert_tokens_to_ids(match.group())} if match else set()

    # Rendering

    def render_text(
        self, messages: Sequence[Message], tools: Sequence[dict[str, object]], *, prompt: bool = False
    ) -> str:
        """The text of `messages`, as transformers' `apply_chat_template` renders it; `prompt` adds the generation prompt."""
        texts, _ = self._render([as_dict(m) for m in messages], list(tools), prompt=prompt)
        return texts

    def _render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, prompt: bool = False, marks: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        texts, marked = render_jinja_template(
            conversations=[messages], tools=tools or None, chat_template=self.text,
            return_assistant_tokens_mask=marks, add_generation_prompt=prompt, **self.tokenizer.special_tokens_map,
        )  # fmt: skip
        return texts[0], [tuple(span) for span in marked[0]] if marks else []

    def render(self, row: Conversation, train_on: str = "all") -> list[Rendered]:
        """The training texts of a row: one, or one per trained turn where the template rewrites history."""
        guard = self.guard_for(row)
        messages = [self._guarded(as_dict(m), guard) for m in row.messages]
        tools = [self._guarded(tool, guard) for tool in row.tools]
        trained = trained_turns(row, train_on)
        try:
            whole, marks = self._render(messages, tools, marks=bool(GENERATION_MARKER.search(self.text)))
            spans = {k: self._turn_span(messages, tools, k) for k, _ in trained}
        except DataError:
            raise
        except Exception as error:  # a template may raise anything: jinja2 errors, TypeErrors inside its expressions
            raise DataError("the chat template refuses this row", where=str(row.at), why=str(error)) from error
        if all(whole.startswith(text) for _, _, text in spans.values()):
            turns = _with_marks(marks, row, trained, spans) if marks else [
                (Turn(start, len(text), weight), start) for (k, weight) in trained for (_, start, text) in [spans[k]]
            ]  # fmt: skip
            return [self._rendered(whole, turns, row, guard)]
        return [
            self._rendered(text, [(Turn(start, len(text), weight), start)], row, guard, upto=k + 1)
            for k, weight in trained
            for (_, start, text) in [spans[k]]
        ]

    def _turn_span(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], k: int) -> tuple[int, int, str]:
        before, _ = self._render(messages[:k], tools, prompt=True)
        upto, _ = self._render(messages[: k + 1], tools)
        if not upto.startswith(before):
            raise ValueError(
                f"what the model is given at inference ({before[-40:]!r}) is not how this turn begins in training "
                f"({upto[len(before) - 40 : len(before) + 20]!r})"
            )
        return k, len(before), upto

    def _rendered(
        self, text: str, turns: list[tuple[Turn, int]], row: Conversation, guard: str | None, upto: int | None = None
    ) -> Rendered:
        messages = [Message(m.role, self._guarded(m.content, guard)) for m in row.messages[:upto]]
        dicts = [self._guarded(as_dict(m), guard) for m in row.messages[:upto]]
        spans = place_texts(text, messages, self.leads_of(dicts, [self._guarded(tool, guard) for tool in row.tools]))
        return Rendered(text, tuple(t for t, _ in turns), tuple(p for _, p in turns), spans, row.at, guard)

    def leads_of(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[str]:
        """What the template writes between the text of each message and of the one before it; "" where that is not known."""
        simple = not tools and all(message.keys() == {"role", "content"} for message in messages)
        key = tuple(message["role"] for message in messages)
        if simple and key in self.leads:
            return self.leads[key]
        try:
            empty, _ = self._render([{**message, "content": PLACE} for message in messages], tools)
        except Exception:  # a template may refuse anything; the real text was rendered before
            empty = ""
        leads = empty.split(PLACE)[:-1] if empty.count(PLACE) == len(messages) else [""] * len(messages)
        if simple:
            self.leads[key] = leads
        return leads

    # Control-token text in user data never becomes a control token

    def guard_for(self, row: Conversation) -> str | None:
        if self.control is None:
            return None
        text = json.dumps([[as_dict(m) for m in row.messages], list(row.tools)], ensure_ascii=False)
        if not self.control.search(text):
            return None
        if not self.piecewise:
            raise DataError(
                "this row contains the text of a control token", where=str(row.at),
                why="this tokenizer cannot encode it as ordinary text", fix="remove it from the row",
            )  # fmt: skip
        free = [guard for guard in GUARDS if guard not in text]
        if not free:
            raise DataError("this row uses every private-use character that could guard it", where=str(row.at))
        return free[0]

    def may_hold_control(self, texts: Sequence[str]) -> bool:
        """Whether one of the texts may hold the text of a control token; `False` is certain."""
        return self.control is not None and any(self.control.search(text) for text in texts)

    def _guarded(self, value: Any, guard: str | None) -> Any:
        """`value` with the guard character put behind the first character of each control token's text."""
        if guard is None or self.control is None:
            return value
        if isinstance(value, str):
            return self.control.sub(lambda match: match.group()[0] + guard + match.group()[1:], value)
        if isinstance(value, dict):
            return {key: self._guarded(item, guard) for key, item in value.items()}
        return [self._guarded(item, guard) for item in value] if isinstance(value, list | tuple) else value

    def _ids_between_controls(self, text: str, guard: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and offsets (in `text` without its guards) when only unguarded control tokens are control tokens."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        shift = at = 0
        pieces = [*self.control.finditer(text), None] if self.control else [None]
        for match in pieces:
            plain = text[at : match.start() if match else len(text)]
            clean = plain.replace(guard, "") if guard else plain
            encoding = self.literal.encode(clean, add_special_tokens=False)
            ids += encoding.ids
            offsets += [(a + at - shift, b + at - shift) for a, b in encoding.offsets]
            shift += len(plain) - len(clean)
            if match:
                ids.append(self.tokenizer.convert_tokens_to_ids(match.group()))
                offsets.append((match.start() - shift, match.end() - shift))
                at = match.end()
        return ids, offsets

    def tokenise(self, texts: Sequence[str], guards: Sequence[str | None]) -> list[tuple[list[int], NDArray[np.int64]]]:
        """Ids and [tokens, 2] character offsets of each text; guarded texts are encoded piece by piece."""
        plain = [text for text, guard in zip(texts, guards) if guard is None]
        encoded = iter(self.backend.encode_batch(plain, add_special_tokens=False))
        result = []
        for text, guard in zip(texts, guards):
            if guard is None:
                encoding = next(encoded)
                ids, offsets = encoding.ids, encoding.offsets
            else:
                ids, offsets = self._ids_between_controls(text, guard)
            result.append((ids, np.asarray(offsets, dtype=np.int64).reshape(-1, 2)))
        return result

    # Encoding

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> NDArray[np.int32]:
        """The ids that a model is given to answer `messages`, generation prompt included: the rule of training."""
        row = Conversation(tuple(messages), At("<prompt>", 1), tuple(tools))
        guard = self.guard_for(row)
        text, _ = self._render(
            [self._guarded(as_dict(m), guard) for m in messages], [self._guarded(t, guard) for t in tools], prompt=True
        )
        return np.asarray(self.tokenise([text], [guard])[0][0], dtype=np.int32)

    def encode(self, rows: Sequence[Conversation], train_on: str = "all") -> list[Encoded]:
        """The rows as tokens with loss weights; problems of all rows are raised together."""
        return [
            item for chunk in range(0, len(rows), 512) for item in self._encode(rows[chunk : chunk + 512], train_on)
        ]

    def _encode(self, rows: Sequence[Conversation], train_on: str) -> Iterator[Encoded]:
        rendered: list[Rendered] = []
        problems: list[Problem] = []
        for row in rows:
            try:
                rendered += self.render(row, train_on)
            except DataError as error:
                problems += error.problems
                if len(problems) >= MAX_PROBLEMS:
                    break
        if problems:
            raise DataError(problems)
        yield from self.weighted(rendered)

    def weighted(self, rendered: list[Rendered]) -> Iterator[Encoded]:
        """Rendered rows as tokens with loss weights; fails where a prompt is not how its training tokens begin."""
        tokenised = self.tokenise([r.text for r in rendered], [r.guard for r in rendered])
        self._prove_prompts(rendered, tokenised)
        for item, (ids, offsets) in zip(rendered, tokenised):
            yield self._weighted(item, ids, offsets)

    def _prove_prompts(self, rendered: list[Rendered], tokenised: list[tuple[list[int], NDArray[np.int64]]]) -> None:
        """Fail unless each prompt, tokenised by itself as at inference, is how the training tokens begin."""
        places = [(r, i, p) for i, r in enumerate(rendered) for p in r.prompts]
        prompts = self.tokenise([r.text[:p] for r, _, p in places], [r.guard for r, _, _ in places])
        problems = [
            Problem(
                "the prompt at inference is not token-identical to the training prefix", str(item.at),
                "the tokenizer merges characters across the edge of the assistant's turn",
                "remove line breaks and spaces at the start of the answer, or use a template whose generation prompt ends "
                "in a control token",
            )
            for (item, i, _), (ids, _) in zip(places, prompts)
            if tokenised[i][0][: len(ids)] != ids
        ]  # fmt: skip
        if problems:
            raise CheckFailedError(problems)

    def _weighted(self, item: Rendered, ids: list[int], offsets: NDArray[np.int64]) -> Encoded:
        array = np.asarray(ids, dtype=np.int32)
        weights = np.zeros(len(ids), dtype=np.float32)
        roles = np.zeros(len(ids), dtype=np.uint8)
        bare = _bare_index(item.text, item.guard)
        for start, stop, role in item.spans:
            roles[(offsets[:, 0] >= bare(start)) & (offsets[:, 1] <= bare(stop))] = role
        for turn in item.turns:
            inside = np.flatnonzero((offsets[:, 0] >= bare(turn.start)) & (offsets[:, 1] <= bare(turn.stop)))
            ends = [i for i in inside if ids[i] in self.stop_ids]
            if ends:  # what a template writes behind the end-of-turn token is never generated
                inside = inside[inside <= ends[-1]]
            weights[inside] = turn.weight
        return Encoded(array, weights, roles, item.at)


def place_texts(text: str, messages: Sequence[Message], leads: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """(start, stop, role index) of each message's text in a rendering; `leads` is what stands before each."""
    spans, cursor = [], 0
    for message, lead in zip(messages, leads):
        content, expected = message.content, cursor + len(lead)
        if content and text.startswith(lead, cursor) and text.startswith(content, expected):
            cursor = expected + len(content)
            spans.append((expected, cursor, ROLES.index(message.role)))
            continue
        kinds = [kind for kind in (content, content.strip(), content.rstrip(), content.lstrip()) if kind]
        places = [
            (expected, kind) for kind in kinds if text.startswith(lead, cursor) and text.startswith(kind, expected)
        ]
        if content.strip():  # rewritten on the way; a blank that was stripped stands nowhere
            places += [(found, kind) for kind in kinds if (found := text.find(kind, cursor)) >= 0]
        for start, kind in places[:1]:
            cursor = start + len(kind)
            spans.append((start, cursor, ROLES.index(message.role)))
    return tuple(spans)


def as_dict(message: Message) -> dict[str, Any]:
    """The message as chat templates expect it."""
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    for key in ("name", "tool_call_id"):
        if (value := getattr(message, key)) is not None:
            result[key] = value
    if message.tool_calls:
        result["tool_calls"] = list(message.tool_calls)
    return result


def trained_turns(row: Conversation, train_on: str) -> list[tuple[int, float]]:
    """(message index, weight) of the assistant turns that are trained; a message's own weight decides, if it has one."""
    turns = [k for k, message in enumerate(row.messages) if message.role == "assistant"]
    weights: dict[int, float] = {}
    for k in turns:
        default = 1.0 if train_on == "all" or k == turns[-1] else 0.0
        own = row.messages[k].weight
        weights[k] = default if own is None else own
    return [(k, weight) for k, weight in weights.items() if weight != 0.0]


def _with_marks(
    marks: list[tuple[int, int]],
    row: Conversation,
    trained: list[tuple[int, float]],
    spans: dict[int, tuple[int, int, str]],
) -> list[tuple[Turn, int]]:
    """The template's own generation spans, one per assistant message, for the turns that are trained."""
    assistants = [k for k, message in enumerate(row.messages) if message.role == "assistant"]
    if len(marks) != len(assistants):
        raise DataError(
            f"the template marks {len(marks)} generations in a row with {len(assistants)} assistant turns",
            where=str(row.at),
        )
    marked = dict(zip(assistants, marks))
    return [(Turn(*marked[k], weight), spans[k][1]) for k, weight in trained]


def _bare_index(text: str, guard: str | None) -> Any:
    """A function from an index into the guarded text to the index into the text without guards."""
    if guard is None:
        return lambda index: index
    places = [i for i, character in enumerate(text) if character == guard]
    return lambda index: index - sum(1 for place in places if place < index)
