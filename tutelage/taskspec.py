"""The recipe's `task` part, one class per task: every key, its default and its meaning. Torch-free."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


class Spec(BaseModel):
    """The base of every part of a recipe: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ChatSpec(Spec):
    """Task `chat`: train the assistant's turns."""

    kind: Literal["chat"] = "chat"
    train_on: Literal["all", "last"] = Field("all", description="every assistant turn, or only the last one of a row")
    system: str | None = Field(None, description="a system prompt for rows that have none")
    chat_template: str | None = Field(None, description="a Jinja file in place of the model's own template")
    allow: list[str] = Field(default_factory=list, description="contract checks that may fail, e.g. [one_template]")


class ClassifySpec(Spec):
    """Task `classify`: a label, several labels or a score for a text or a pair of texts."""

    kind: Literal["classify"] = "classify"
    labels: list[str] | None = Field(None, description="label names in order; none: those of the training rows, sorted")
    num_labels: Literal[1] | None = Field(None, description="1: the labels are numbers, or rows are preferences")
    multi_label: bool = Field(False, description="any number of labels may hold")
    separator: str | None = Field(None, description="what stands between labels in a CSV field, e.g. `|`")
    class_weights: Literal["balanced"] | dict[str, Weight] | None = Field(
        None,
        description="loss weight per label (multi_label: in rows where it holds); balanced: inverse to how often it occurs",
    )
    thresholds: Probability | dict[str, Probability] = Field(
        0.5, description="multi_label: the probability from which a label holds"
    )
    verbalised: bool = Field(False, description="a causal model writes the label's name; no new head")
    instruction: str | None = Field(None, description="verbalised: the prompt, with {text} and optionally {labels}")
    chat_template: str | None = Field(None, description="verbalised: a Jinja file in place of the model's own template")
    allow: list[str] = Field(default_factory=list, description="contract checks that may fail")


class TagSpec(Spec):
    """Task `tag`: a tag per word (named entities)."""

    kind: Literal["tag"] = "tag"
    labels: list[str] | None = Field(None, description="tags in order; none: those of the training rows")
    scheme: Literal["auto", "BIO", "IOB1", "BILOU"] = Field("auto", description="of the data; trained and saved as BIO")
    stride: int = Field(64, ge=0, description="tokens that windows of a long text share")
    allow: list[str] = Field(default_factory=list, description="contract checks that may fail")


class ExtractSpec(Spec):
    """Task `extract`: the part of a context that answers a question (SQuAD)."""

    kind: Literal["extract"] = "extract"
    stride: int = Field(128, ge=0, description="tokens that windows of a long context share")
    max_answer_tokens: int = Field(30, ge=1, description="the longest answer that is predicted")
    no_answer: bool | None = Field(
        None, description="a question may have no answer; none: where a training row has none"
    )
    no_answer_threshold: float = Field(0.0, description="no answer wins from this score difference on")
    allow: list[str] = Field(default_factory=list, description="contract checks that may fail")


class Seq2SeqSpec(Spec):
    """Task `seq2seq`: a target text for a source text (summaries, translations)."""

    kind: Literal["seq2seq"] = "seq2seq"
    prefix: str = Field("", description="encoder-decoders: written before every source, e.g. `summarize: `")
    instruction: str = Field("{source}", description="causal models: the prompt, with {source}")
    max_target_tokens: int = Field(256, ge=1, description="the longest target, in training and when writing")
    num_beams: int = Field(1, ge=1, description="saved in the model's generation settings")
    length_penalty: float = Field(1.0, description="saved in the model's generation settings")
    system: str | None = Field(None, description="causal models: a system prompt")
    chat_template: str | None = Field(None, description="causal models: a Jinja file in place of the model's template")
    allow: list[str] = Field(default_factory=list, description="contract checks that may fail")


class TextSpec(Spec):
    """Task `text`: continued training on unlabelled text."""

    kind: Literal["text"] = "text"
    objective: Literal["auto", "causal", "masked"] = Field("auto", description="auto: what the model was made for")
    masked_share: float = Field(0.15, gt=0.0, lt=1.0, description="masked: share of the tokens that are predicted")
    allow: list[str] = Field(default_factory=list, description="contract checks that may fail")


TaskSpec = ChatSpec | ClassifySpec | TagSpec | ExtractSpec | Seq2SeqSpec | TextSpec
TASKS: dict[str, type[Spec]] = {
    "chat": ChatSpec, "classify": ClassifySpec, "tag": TagSpec, "extract": ExtractSpec, "seq2seq": Seq2SeqSpec,
    "text": TextSpec,
}  # fmt: skip
LABELLING = ("classify", "tag", "extract")  # tasks that say something of a text, and write none
