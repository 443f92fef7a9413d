"""Pieces of answers as the objects that OpenAI's API sends."""

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tutelage.generate.streams import Output
from tutelage.serve.answers import Piece, Usage
from tutelage.serve.served import Served


class Shape:
    """The objects of one answer: the same id, model and time in each."""

    prefix = ""
    whole = ""
    part = ""

    def __init__(self, model: Served) -> None:
        self.model = model
        self.head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model.name}

    def token(self, number: int) -> tuple[str, list[int]]:
        """A token's text and its bytes, which may be a part of a character."""
        backend = self.model.template.backend
        text = str(self.model.template.tokenizer.decode([number], clean_up_tokenization_spaces=False))
        raw = text.encode()
        if "\ufffd" in text:
            raw = _bytes_of(backend.id_to_token(number) or "", raw)
        return text, list(raw)

    def complete(self, choices: Sequence[list[Piece]], usage: Usage) -> dict[str, Any]:
        """The answer that is not streamed, from all pieces of each choice."""
        shaped = [self.choice(index, pieces) for index, pieces in enumerate(choices)]
        return {**self.head, "object": self.whole, "choices": shaped, "usage": usage.as_json()}

    def chunk(self, choices: list[dict[str, Any]], usage: Usage | None = None) -> dict[str, Any]:
        """One event of a stream."""
        return {**self.head, "object": self.part, "choices": choices, "usage": usage.as_json() if usage else None}

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """One choice of a whole answer."""
        raise NotImplementedError

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream begins a choice with."""
        raise NotImplementedError

    def delta(self, piece: Piece) -> dict[str, Any]:
        """One piece of a choice in a stream."""
        raise NotImplementedError


class ChatShape(Shape):
    """`chat.completion` and its chunks."""

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        logs = self._logprobs([output for piece in pieces for output in piece.tokens])
        return {"index": index, "message": message, "logprobs": logs, "finish_reason": pieces[-1].finish}

    def opening(self, index: int) -> dict[str, Any] | None:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def delta(self, piece: Piece) -> dict[str, Any]:
        content = {"content": piece.text} if piece.text else {}
        return {
            "index": piece.index, "delta": content, "logprobs": self._logprobs(piece.tokens), "finish_reason": piece.finish,
        }  # fmt: skip

    def _logprobs(self, outputs: Sequence[Output]) -> dict[str, Any] | None:
        if not outputs or outputs[0].logprob is None:
            return None

        def entry(number: int, value: float) -> dict[str, Any]:
            text, raw = self.token(number)
            return {"token": text, "logprob": _finite(value), "bytes": raw}

        content = [
            {**entry(o.token, o.logprob or 0.0), "top_logprobs": [entry(t, v) for t, v in o.alternatives]}
            for o in outputs
            if o.token is not None
        ]
        return {"content": content, "refusal": None}


class TextShape(Shape):
    """`text_completion`, the same object streamed or not."""

    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: Served) -> None:
        super().__init__(model)
        self.written: Counter[int] = Counter()  # characters of each choice's tokens so far

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        logs = self._logprobs(index, [output for piece in pieces for output in piece.tokens])
        text = "".join(piece.text for piece in pieces)
        return {"index": index, "text": text, "logprobs": logs, "finish_reason": pieces[-1].finish}

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def delta(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.index, "text": piece.text, "logprobs": self._logprobs(piece.index, piece.tokens),
            "finish_reason": piece.finish,
        }  # fmt: skip

    def _logprobs(self, index: int, outputs: Sequence[Output]) -> dict[str, Any] | None:
        if not outputs or outputs[0].logprob is None:
            return None
        tokens = [self.token(output.token)[0] for output in outputs if output.token is not None]
        offsets = []
        for token in tokens:
            offsets.append(self.written[index])
            self.written[index] += len(token)
        best = [{self.token(t)[0]: _finite(v) for t, v in output.alternatives} for output in outputs]
        values = [_finite(output.logprob or 0.0) for output in outputs]
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": best, "text_offset": offsets}


def _finite(value: float) -> float:
    return max(value, -9999.0)  # OpenAI's value for what cannot come; JSON has no infinity


def _bytes_of(token: str, otherwise: bytes) -> bytes:
    """The bytes of a byte-level token, from the characters that stand for them in the vocabulary."""
    values = [BYTES.get(character) for character in token]
    return bytes(value for value in values if value is not None) if all(v is not None for v in values) else otherwise


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from 256 on, in order."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTES = _byte_characters()
