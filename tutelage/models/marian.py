"""The tokenizer of a Marian translation model: a SentencePiece model for each language, and the vocabulary that numbers their
pieces (one for both, or one for each)."""

import warnings
from pathlib import Path
from typing import Any

from tutelage.errors import ModelError, Problem, need
from tutelage.models.safety import MAX_TOKENIZER, read_object

FILES = ("source.spm", "target.spm", "vocab.json")


def is_marian(path: Path) -> bool:
    """Whether the model folder is of this family, and has no tokenizer.json."""
    config = path / "config.json"
    return (
        not (path / "tokenizer.json").is_file()
        and config.is_file()
        and read_object(config).get("model_type") == "marian"
    )


def load_marian(path: Path) -> Any:
    """transformers' MarianTokenizer of a folder. An unreadable file, or a vocabulary without numbers, is a ModelError."""
    need("sentencepiece", extra="marian")
    separate = (path / "target_vocab.json").is_file()
    problems: list[Problem] = []
    for name in (*FILES, *(["target_vocab.json"] if separate else [])):
        file = path / name
        if not file.is_file():
            problems.append(Problem(f"this folder has no {name}", str(path), fix="fetch the model again"))
        elif file.stat().st_size > MAX_TOKENIZER:
            problems.append(Problem(f"this {name} is too large", str(file), f"at most {MAX_TOKENIZER} bytes are read"))
        elif name.endswith(".json"):
            ids = read_object(file)
            if not all(type(number) is int and number >= 0 for number in ids.values()) or "<unk>" not in ids:
                why = "it must number every piece, and `<unk>` among them"
                problems.append(Problem("this vocabulary is not one", str(file), why, "fetch the file again"))
    if problems:
        raise ModelError(problems)
    marian = need("transformers.models.marian.tokenization_marian", extra="marian")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it recommends sacremoses, for a method that nothing calls
            # not by AutoTokenizer: what that builds is up to a name in tokenizer_config.json
            return marian.MarianTokenizer.from_pretrained(str(path), local_files_only=True, separate_vocabs=separate)
    except Exception as error:  # SentencePiece raises what its C++ side does
        raise ModelError(
            "the tokenizer cannot be loaded", where=str(path), why=" ".join(f"{type(error).__name__}: {error}".split())[:400],
            fix="fetch source.spm, target.spm and vocab.json again",
        ) from error  # fmt: skip
