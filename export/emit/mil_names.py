"""Names of operations and constants in a program: letters, digits and underscores, each once."""

from __future__ import annotations

import re
from collections.abc import Iterable

_OTHERS = re.compile(r"(?<![0-9A-Za-z])[._]|[._](?![0-9A-Za-z])|[^0-9A-Za-z._]|^[0-9]")


def mil_name(name: str) -> str:
    """The name in a program of what the checkpoint calls ``name``; no other has the same.

    A dot becomes two underscores: ``conv_in.weight`` is ``conv_in__weight``. A digit at the beginning, a dot
    or underscore that is not between letters or digits, and every other character become their code points,
    between three underscores on each side.
    """
    said, at = [], 0
    for other in _OTHERS.finditer(name):
        said += [name[at : other.start()].replace(".", "__"), f"___{ord(other.group()):x}___"]
        at = other.end()
    return "".join((*said, name[at:].replace(".", "__")))


class Names:
    """The names that one function has given away; ``public`` are those of its inputs and outputs."""

    def __init__(self, public: Iterable[str] = ()) -> None:
        self._taken = set(public)
        self._count: dict[str, int] = {}

    def fresh(self, scope: str, kind: str) -> str:
        """A name for an operation of the module ``scope``."""
        return self._unique(f"{mil_name(scope)}__{kind}" if scope else kind)

    def weight(self, name: str) -> str:
        """The name of a parameter's constant; a second form of it has a number behind its name."""
        return self._unique(mil_name(name))

    def _unique(self, base: str) -> str:
        name, count = base, 0
        while name in self._taken:
            count = self._count[base] = self._count.get(base, 0) + 1
            name = f"{base}__{count}"
        self._taken.add(name)
        return name
