"""What a computation would hold in memory and multiply, found by running it on tensors without values.

Tensors on torch's `meta` device have a shape and a dtype and no storage, so the run's own code (model, method, loss, optimiser)
can be walked through at any size in about a second. A `Tally` sees each storage come and go, and counts the products' operations.
"""

import functools
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# glibc gives blocks of this size and above back at once (its largest M_MMAP_THRESHOLD); smaller ones stay with the process.
GIVEN_BACK = 32 * 2**20
ATEN = torch.ops.aten
SCALAR = ATEN._local_scalar_dense.default
# How an operation is counted; torch's registry does not know the products that add to their first argument.
PRODUCTS = {**flop_registry, ATEN.addmm_: flop_registry[ATEN.addmm], ATEN.baddbmm_: flop_registry[ATEN.baddbmm]}


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of living meta storages by label, the most that were ever held together, and floating-point operations.

    What comes while a graph is differentiated is counted as `backward`.

    Where the code asks for a value it gets 1; where it asks which entries are distinct, all are. Both change what is computed,
    but neither what is held: sizes here never depend on values.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.label = "weights"
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.operations = 0
        self.products: set[object] = set()  # shapes of products, each once
        self.allocator = 0  # at the peak: bytes that are free again, and not given back
        self._wide: tuple[str, int] = ("", 0)
        self._known: set[int] = set()
        self.bytes = 0  # alive now
        self._top = self._small = self._small_top = 0

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """What comes inside is counted as `label`."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    @contextmanager
    def wide(self, label: str, width: int) -> Iterator[None]:
        """What comes inside with a dimension of `width` is counted as `label`."""
        self._wide = label, width
        try:
            yield
        finally:
            self._wide = "", 0

    def settle(self) -> None:
        """Forget the peak so far, and what the allocator has kept."""
        self._small_top = self._small
        self._mark()

    def _mark(self) -> None:
        """What is held now is the peak."""
        self.peak, self.allocator = Counter(self.live), self._small_top - self._small
        self._top = self.bytes + self.allocator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = PRODUCTS.get(func._overloadpacket)
        result = _run(func, args, kwargs)
        if known is not None:
            self.operations += known(*args, **kwargs, out_val=result)
            self.products.add((func, *(tuple(each.shape) for each in args if isinstance(each, Tensor))))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.is_meta and value.layout is torch.strided:
                self._note(value)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        label = "backward" if torch._C._current_graph_task_id() != -1 else self.label
        if label == self.label and self._wide[1] in tensor.shape and self._wide[0]:
            label = self._wide[0]
        self.live[label] += size
        self.bytes += size
        if size < GIVEN_BACK:
            self._small += size
            self._small_top = max(self._small_top, self._small)
        weakref.finalize(storage, self._gone, key, label, size)
        if self.bytes + self._small_top - self._small > self._top:
            self._mark()

    def _gone(self, key: int, label: str, size: int) -> None:
        self._known.discard(key)
        self.live[label] -= size
        self.bytes -= size
        if size < GIVEN_BACK:
            self._small -= size


@functools.cache
def _changes_in_place(func: Any) -> bool:
    """Whether the operation writes values into its first argument and returns it. By its schema: torch 2.10 has no tag for it."""
    first = func._schema.arguments[:1]
    written = bool(first) and first[0].alias_info is not None and first[0].alias_info.is_write
    return written and func._schema.name.endswith("_") and torch.Tag.inplace_view not in func.tags


def _places(index: Any) -> list[Any]:
    """An index as integers: a mask chooses all there are."""
    if index is None or index.dtype is not torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.int64, device="meta") for _ in range(index.dim())]


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation, or what stands in for it where meta tensors have none."""
    first = args[0] if args and isinstance(args[0], Tensor) else None
    if first is None or not first.is_meta:
        return func(*args, **kwargs)
    if _changes_in_place(func):
        return first  # a third of a walk's time otherwise: torch does these by its slow way, in Python
    if func is SCALAR:
        return bool(1) if first.dtype == torch.bool else 1.0 if first.is_floating_point() else 1
    if func is ATEN._unique2.default:
        count = torch.empty(0, dtype=torch.int64, device="meta")
        return torch.empty_like(first), torch.empty(first.shape, dtype=torch.int64, device="meta"), count
    if func is ATEN.nonzero.default:
        return torch.empty(first.numel(), first.dim(), dtype=torch.int64, device="meta")
    if func is ATEN.index.Tensor:
        return func(first, [place for each in args[1] for place in _places(each)])
    if func is ATEN._to_copy.default and kwargs.get("device") not in (None, torch.device("meta")):
        return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
    if func is ATEN.copy_.default and not args[0].is_meta:
        return args[0]
    return func(*args, **kwargs)
