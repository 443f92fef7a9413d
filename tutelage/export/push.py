"""An artefact to a model hub: only finished ones, private unless said otherwise."""

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from tutelage.errors import HubError, ModelError, UsageError
from tutelage.export.artifact import read_artifact
from tutelage.export.card import HUB_ID, check_card


def push_artifact(folder: Path, repository: str, *, public: bool, message: str) -> dict[str, Any]:
    """Upload the export in `folder` to `repository` (org/name) and return its address; the token is the hub client's own.

    A repository that is public already is refused unless `public` says so: pushing there would publish the model.
    """
    if not HUB_ID.fullmatch(repository):
        raise UsageError(f"`{repository}` is not a repository", where="repository", fix="org/name")
    receipt = read_artifact(folder)
    found = check_card((folder / "README.md").read_text(encoding="utf-8"))
    if found:
        raise ModelError(found)
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        is_public = not api.repo_info(repository).private
        if is_public and not public:
            raise UsageError(
                f"{repository} is public", where="repository", why="the model would be published",
                fix="choose another repository, or say --public",
            )  # fmt: skip
        names = [*receipt["files"], "parity.json"]
        commit = api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=names, commit_message=message)
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
