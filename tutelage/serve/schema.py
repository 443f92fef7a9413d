"""What the API takes, as OpenAI's clients send it. A field that would change the answer and is not honoured is refused."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tutelage.data.types import Message
from tutelage.generate.sampling import Sampling


def _whole_text(text: str) -> str:
    """No lone surrogates: they are no characters, and no tokenizer reads them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("the text holds half of a surrogate pair") from error
    return text


Text = Annotated[str, AfterValidator(_whole_text)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31, strict=True)]], Field(min_length=1)]


class Body(BaseModel):
    """Unknown fields are refused, and a number is not a text."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: Text | None = None
    refusal: None = None
    tool_call_id: Text | None = None

    def message(self) -> Message:
        """The turn as templates take it; OpenAI's `developer` is the system's newer name."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts or [])
        role = "system" if self.role == "developer" else self.role
        return Message(role, text, name=self.name, tool_call_id=self.tool_call_id)


class StreamOptions(Body):
    """What a stream sends beside its text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchema(Body):
    """A schema that the answer must fit."""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """Plain text, any JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` belongs to the type json_schema, and it alone")
        return self


class Decoding(Body):
    """The fields that both routes share."""

    model: Annotated[Text, Field(max_length=256)]
    temperature: float = Field(1.0, ge=0.0, le=2.0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, le=1 << 20)
    min_p: float = Field(0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    repetition_penalty: float = Field(1.0, gt=0.0, le=10.0, allow_inf_nan=False)
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    frequency_penalty: float = Field(0.0, ge=0.0, le=0.0, description="only 0: use repetition_penalty")
    presence_penalty: float = Field(0.0, ge=0.0, le=0.0, description="only 0: use repetition_penalty")
    logit_bias: dict[str, float] | None = Field(None, max_length=0, description="only empty")
    user: Any = Field(None, description="ignored")
    metadata: Any = Field(None, description="ignored")
    store: Any = Field(None, description="ignored")

    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)

    def stops(self) -> list[str]:
        """The stop texts."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]


class ChatRequest(Decoding):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)]
    max_tokens: int | None = Field(None, ge=1, le=1 << 31)
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 31)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: None = Field(None, description="not supported")

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs: true`")
        return self


class CompletionRequest(Decoding):
    """`POST /v1/completions`: raw text, or ids, without a chat template."""

    prompt: Text | Ids | Annotated[list[Text] | list[Ids], Field(min_length=1, max_length=128)]
    max_tokens: int = Field(16, ge=1, le=1 << 31)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] = False
    suffix: None = None
    best_of: Literal[1] | None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts, one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(item, int) for item in self.prompt):
            return [[int(item) for item in self.prompt]]  # type: ignore[arg-type]
        return list(self.prompt)  # type: ignore[arg-type]
