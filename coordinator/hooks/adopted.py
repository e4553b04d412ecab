"""A callback that becomes one of its library's own when it is made: by then, who trains has imported the library.

Lightning is there under two names, each with a base class of its own; a callback that is made where both are loaded is of both.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, ClassVar


class Adopted:
    """`Base of`: modules and the class in them. What a subclass does comes before what the library's class does."""

    homes: ClassVar[tuple[str, ...]]  #: modules, the usual one first
    parent: ClassVar[str]  #: the class in each of them

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(_of_the_library(cls))

    def __reduce__(self) -> Any:
        """By the class that was written down: the one that was made has no name by which another process would find it."""
        return _again, (type(self).__mro__[1], self.__dict__)


def _again(kind: type[Adopted], state: dict[str, Any]) -> Adopted:
    made: Adopted = kind.__new__(kind)
    made.__dict__.update(state)
    return made


_made: dict[tuple[type, ...], type] = {}


def _of_the_library(kind: type[Adopted]) -> type:
    loaded = [name for name in kind.homes if name in sys.modules]
    bases = (kind, *(getattr(import_module(name), kind.parent) for name in loaded or [_installed(kind)]))
    if bases not in _made:
        _made[bases] = type(kind.__name__, bases, {"__module__": kind.__module__, "__doc__": kind.__doc__})
    return _made[bases]


def _installed(kind: type[Adopted]) -> str:
    for name in kind.homes:
        try:
            import_module(name)
        except ImportError:
            continue
        return name
    raise ImportError(
        f"{kind.__name__} is a callback of {' or '.join(kind.homes)}, and none of these can be imported: install it"
    )
