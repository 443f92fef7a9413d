"""A GGUF file opened again: by llama.cpp where llama-cpp-python is installed, else by this project's own reader."""

import importlib.util
import shutil
import tempfile
from pathlib import Path

import torch

from tutelage.encode.template import Template
from tutelage.errors import MissingInputError, ModelError
from tutelage.export.folder_replica import FolderReplica
from tutelage.export.llama_cpp_model import LlamaCppModel
from tutelage.export.types import Replica
from tutelage.models.gguf_convert import convert_gguf
from tutelage.models.load import load_model, load_tokenizer


class ConvertedReplica(FolderReplica):
    """A GGUF file that was converted back into a temporary folder by our own reader."""

    def __init__(self, path: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tutelage-gguf-"))
        try:
            convert_gguf(path, self.folder)
            model = load_model(self.folder, dtype=torch.float32)
            template = Template.of(load_tokenizer(self.folder), eos_ids=model.generation_config.eos_token_id)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        super().__init__(model, template, "tutelage's GGUF reader")

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)


def open_gguf(path: Path) -> Replica:
    """The file as llama.cpp sees it, or where that is not installed, as our own reader does."""
    if importlib.util.find_spec("llama_cpp") is not None:
        return LlamaCppModel(path)
    try:
        return ConvertedReplica(path)
    except ModelError as error:
        raise MissingInputError(
            "this GGUF file cannot be checked here", where=str(path),
            why=f"llama.cpp is not installed, and our own reader says: {error.problems[0].what}",
            fix="pip install 'tutelage[llama-cpp]'",
        ) from error  # fmt: skip
