"""The text of a kernel: lines with their indentation, quotes of the rule, and names that collide with nothing."""

from __future__ import annotations

import keyword
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import ClassVar

from ..errors import Origin
from ..graph.node import Node

LONGEST_NAME = 40


class Names:
    """Gives every value of a kernel a readable name that collides with nothing."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}

    def fresh(self, wanted: str) -> str:
        """Return the wanted name, or the nearest one that is free and plain ASCII."""
        base = wanted[:LONGEST_NAME] if wanted.isascii() and wanted.isidentifier() else "value"
        count = self._last.get(base, 0)
        name = ""
        while not name or name in self._taken or keyword.iskeyword(name):
            count += 1
            name = base if count == 1 else f"{base}_{count}"
        self._last[base] = count
        self._taken.add(name)
        return name


class Source:
    """Lines of a program, with the indentation kept apart from the text."""

    mark: ClassVar[str] = "#"
    """What a comment begins with."""
    indentation: ClassVar[str] = "    "

    def __init__(self, origins: Mapping[Node, Origin]) -> None:
        self._lines: list[str] = []
        self._depth = 0
        self._origins = origins
        self._last_comment = ""

    def line(self, *texts: str) -> None:
        """Add lines at the current depth."""
        self._lines.extend(self.indentation * self._depth + text if text else "" for text in texts)

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        """Add a line that opens a block, and indent what follows."""
        self.line(head)
        self._depth += 1
        self._last_comment = ""
        yield
        self._depth -= 1
        self._last_comment = ""

    def comment(self, node: Node) -> None:
        """Quote the rule's line that wrote this node, once for a run of nodes from it."""
        origin = self._origins.get(node)
        text = " ".join(origin.text.split()) if origin is not None else ""
        if text and text.isprintable() and text != self._last_comment:
            self.line(f"{self.mark} {text}")
            self._last_comment = text

    def text(self) -> str:
        """Return the program."""
        return "\n".join(self._lines) + "\n"
