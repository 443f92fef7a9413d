"""An artefact to a model hub: only finished ones, private unless said otherwise."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from tutelage.errors import HubError, ModelError, UsageError
from tutelage.export.artifact import read_artifact
from tutelage.export.card import HUB_ID, check_card, is_hub_id, metadata_of
from tutelage.methods.adapter_file import CONFIG
from tutelage.runs import read_json, write_json


def push_artifact(
    folder: Path, repository: str, *, base: str | None = None, public: bool = False, message: str
) -> dict[str, Any]:
    """Upload the export in `folder` to `repository` (org/name) and return its address; the token is the hub client's own.

    An adapter names its base by the hub id `base`, or the card's: the folder that it was trained on is on this machine only.
    A repository that is public already is refused unless `public` says so: pushing there would publish the model.
    """
    if not HUB_ID.fullmatch(repository):
        raise UsageError(f"`{repository}` is not a repository", where="repository", fix="org/name")
    receipt = read_artifact(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    found = check_card(card)
    if found:
        raise ModelError(found)
    names = [*receipt["files"], "parity.json"]
    base = _base(folder, base, metadata_of(card)) if CONFIG in names else None
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        is_public = not api.repo_info(repository).private
        if is_public and not public:
            raise UsageError(
                f"{repository} is public", where="repository", why="the model would be published",
                fix="choose another repository, or say --public",
            )  # fmt: skip
        with _with_base(folder, names, base) as sent:
            commit = api.upload_folder(
                repo_id=repository, folder_path=sent, allow_patterns=names, commit_message=message
            )
    except HfHubHTTPError as error:
        raise HubError(
            "the hub refused the upload", where=repository, why=" ".join(str(error).split())[:300],
            fix="log in: hf auth login (the token needs write access)",
        ) from error  # fmt: skip
    except UsageError:
        raise
    except Exception as error:  # the client's own errors have no common base
        raise HubError("the hub does not answer", where=repository, why=" ".join(str(error).split())[:300]) from error
    return {"repository": repository, "private": not is_public, "commit": commit.oid, "files": names}


def _base(folder: Path, given: str | None, card: Any) -> str:
    """The hub id of an adapter's base: the one given, the one that it names, or the card's."""
    named = str(read_json(folder / CONFIG).get("base_model_name_or_path"))
    known = named if is_hub_id(named) else card.get("base_model")
    found = given or known
    if not isinstance(found, str) or not HUB_ID.fullmatch(found):
        raise UsageError(
            f"`{found}` is no hub id" if given else "nobody else could load this adapter", where="base",
            why=f"its base is {named}, on this machine only", fix="--base org/name, or export --to merged",
        )  # fmt: skip
    return found


@contextmanager
def _with_base(folder: Path, names: list[str], base: str | None) -> Iterator[Path]:
    """The export, or of an adapter a copy that names `base`."""
    if base is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tutelage-push-") as made:
        copy = Path(made)
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        write_json(copy / CONFIG, {**read_json(folder / CONFIG), "base_model_name_or_path": base})
        yield copy
