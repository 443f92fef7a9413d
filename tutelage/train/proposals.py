"""Whether a run can fit, and if not, the smallest change of its recipe with which it does: each one is tried on a sketch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from tutelage.encode.rows import Rows
from tutelage.encode.types import Encoded
from tutelage.engine.memory import Room, room
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import OutOfMemoryError, TutelageError
from tutelage.recipe import LoraSpec, Method, Recipe
from tutelage.train.budget import fitting, plainly_fits
from tutelage.train.estimate import MEMORY_RANGE, MIB
from tutelage.train.material import Material
from tutelage.train.sketch import Sketch, lengths_of, sketched

# Methods that take less memory, the smallest change first.
LIGHTER: dict[str, tuple[str, ...]] = {
    "full": ("half", "lora", "qlora"), "half": ("lora", "qlora"), "lora": ("qlora",), "qlora": (),
}  # fmt: skip
SHORTEST = 128  # tokens; below this a chat is none


@dataclass(frozen=True)
class Proposal:
    """Recipe keys to change, and what the run then needs at least, in MiB."""

    set: tuple[str, ...]
    least_mib: float

    def __str__(self) -> str:
        return " ".join(f"--set {each}" for each in self.set) + f" (about {self.least_mib:,.0f} MiB)"


def least_bytes(sketch: Sketch, free: float) -> tuple[bool, float]:
    """Whether the run fits into `free` bytes beside the process, with lower budgets and recomputation if need be; what it takes.

    Weights that stay in their file count too: without them in the page cache every step would read the disk.
    """
    fit = fitting(sketch, free - sketch.parameter_bytes)
    longest = int(lengths_of(sketch.state.train_rows).max())
    return fit.fits, sketch.parameter_bytes + fit.need.of(longest)


def proposals(recipe: Recipe, material: Material, plan: ExecutionPlan, free: float) -> Iterator[Proposal]:
    """Changes with which the run fits into `free` bytes, the smallest first."""
    longest = min(int(lengths_of(material.train.rows).max()), recipe.max_tokens)
    lengths = [longest >> power for power in range(1, 12) if longest >> power >= SHORTEST]
    methods = LIGHTER.get(recipe.method.kind, ())
    tried = (
        [(kind, None) for kind in methods] + [(None, n) for n in lengths] + [(k, n) for k in methods for n in lengths]
    )
    for kind, length in tried:
        shorter = material if length is None else shortened(material, recipe.over_length, length)
        if not len(shorter.train.rows):
            continue
        changed, sets = recipe, [f"max_tokens={length}"] if length else []
        try:
            if kind is not None:
                key, method = lighter(kind, recipe.method)
                changed, sets = recipe.model_copy(update={"method": method}), [key, *sets]
            fits, least = least_bytes(sketched(changed, shorter, plan), free)
        except (TutelageError, ValidationError):  # its package is not installed, or it lacks one of the keys
            continue
        if fits:
            yield Proposal(tuple(sets), least / MIB)


def lighter(kind: str, method: object) -> tuple[str, object]:
    """What to set for the method `kind` in the place of `method`, and that method: QLoRA has all keys of LoRA, which stay."""
    kept = method.model_dump(exclude_unset=True) if kind == "qlora" and isinstance(method, LoraSpec) else {}
    return f"method{'.kind' if kept else ''}={kind}", TypeAdapter(Method).validate_python({**kept, "kind": kind})


def shortened(material: Material, over_length: str, limit: int) -> Material:
    """The material without what is longer than `limit` tokens: cut, or left out."""
    rows = material.train.rows
    short: Sequence[Encoded]
    if over_length == "truncate" and isinstance(rows, Rows):
        short = rows.choose(lengths_of(rows) > 0, limit)
    else:
        short = [row for row in rows if len(row.ids) <= limit]
    return replace(material, train=replace(material.train, rows=short))


def refuse_what_cannot_fit(recipe: Recipe, material: Material, sketch: Sketch, free: Room | None = None) -> None:
    """OutOfMemoryError with the smallest change that fits, where even the least need, less its error, is above the room."""
    free = free or room()
    if free is None or sketch.device == "cuda":
        return
    plan, most = sketch.plan, free.bytes / MEMORY_RANGE[0]
    if plainly_fits(sketch, most - sketch.parameter_bytes):
        return
    fits, least = least_bytes(sketch, most)
    sketch.adopt(plan)
    if fits:
        return
    found = next(proposals(recipe, material, plan, free.bytes), None)
    raise OutOfMemoryError(
        f"this run cannot fit: it takes about {least / MIB:,.0f} MiB with the smallest micro-batches and all layers computed twice",
        where="method", why=f"{free.source} leaves {free.bytes / MIB:,.0f} MiB",
        fix=str(found) if found else "free some memory, or choose a smaller model",
    )  # fmt: skip
