"""A named collection of plug-ins: a dict, `add`, and `get` with a suggestion."""

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from tutelage.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to plug-ins of one `kind` ("format", "method", ...)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """A decorator that registers what it decorates under `name`."""

        def register(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._items[name] = item
            return item

        return register

    def get(self, name: str) -> T:
        """The plug-in called `name`; an unknown name is an error that suggests the nearest one."""
        if name not in self._items:
            raise UsageError(f"unknown {self.kind} `{name}`", fix=suggestion(name, self._items))
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))


def suggestion(name: str, known: "dict[str, T] | list[str]") -> str:
    """A sentence that offers the known names nearest to `name`, or all of them."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else "one of: " + ", ".join(sorted(known))
