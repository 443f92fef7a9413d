"""One attempt at the model hub, with short timeouts: config, safetensors, tokenizer and template files only."""

import shutil
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tutelage.errors import HubError, ModelError

TIMEOUT = 10.0  # seconds until the hub must have answered
SMALL_FILES = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "source.spm", "target.spm", "target_vocab.json",
    "chat_template.jinja", "model.safetensors.index.json",
    "LICENSE", "README.md", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json",
}  # fmt: skip


def download(repo: str, revision: str | None, folder: Path, say: Callable[[str], None], *, weights: bool = True) -> str:
    """Fill `folder` with the model's files, or all but its weights; returns the source with its commit. No answer is a HubError."""
    where = f"{repo}@{revision}" if revision else repo
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT, files_metadata=True)
    except Exception as error:  # the client's own errors have no common base
        raise unanswered(where, error) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = _wanted(sizes)
    if not any(name.endswith(".safetensors") for name in wanted):
        files = sorted(name for name in sizes if name.lower().endswith(".gguf"))
        if files:
            raise ModelError(
                "this hub repository holds GGUF files, and a GGUF file is read from disk",
                where=where,
                why=f"it holds {', '.join(files[:5])}",
                fix=f"hf download {repo} {files[0]} --local-dir . ; then name ./{files[0]}",
            )
        raise ModelError(
            "this model has no safetensors weights",
            where=where,
            why="pickled weights run code when they are loaded, so they are never read",
            fix="choose a revision with model.safetensors, or convert it in a sandbox and name the folder",
        )
    if not weights:
        wanted = [name for name in wanted if name in SMALL_FILES and name != "model.safetensors.index.json"]
    say(f"fetching {where} from the hub ({sum(sizes[name] for name in wanted) / 1e6:.0f} MB)")
    try:
        snapshot_download(
            repo, revision=info.sha, local_dir=folder, etag_timeout=TIMEOUT, max_workers=4, allow_patterns=wanted
        )
    except Exception as error:
        raise unanswered(where, error) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return f"hub:{repo}@{info.sha}"


def _wanted(names: dict[str, int]) -> list[str]:
    """The exact names to fetch, and one set of weights where a repository holds several."""
    wanted = [name for name in names if name in SMALL_FILES]
    if "model.safetensors" in names:
        return [*(name for name in wanted if name != "model.safetensors.index.json"), "model.safetensors"]
    parts = (name for name in names if name.startswith("model-") and name.endswith(".safetensors"))
    return [*wanted, *(name for name in parts if not set(name) & set("/\\*?["))]


def unanswered(
    where: str, error: Exception, *, what: str = "model", hub: str = "model hub",
    instead: str = "name a folder that holds the model",
) -> HubError:  # fmt: skip
    """The sentence for an exception of the hub's client, which was asked for a `what`; `instead` is another way."""
    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, GatedRepoError):
        return HubError(f"the hub wants you to accept this {what}'s terms", where=where, why=why, fix="hf auth login")
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return HubError(f"the hub has no such {what} or revision", where=where, why=why, fix="check the spelling")
    return HubError(
        f"the {hub} does not answer", where=where, why=why, fix=f"set HF_ENDPOINT to a mirror, or {instead}"
    )
