"""Expressions inside others, with the brackets that keep what is computed of what."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..graph.node import Node
from ..graph.ops import OPS

_SUM, _PRODUCT = OPS["add"].binding, OPS["mul"].binding
_HEAD = re.compile(r"[\w.]+\(")


def bracketed(template: str, node: Node, given: Sequence[str], real: str = "") -> str:
    """Return a node's spelling around those of its inputs."""
    if whole(template):
        return template.format(*given, real=real)
    own, parts = OPS[node.op].binding, list[str]()
    for place, (child, text) in enumerate(zip(node.inputs, given, strict=True)):
        tight = 9 if whole(text) else OPS[child.op].binding
        enough = own if place == 0 and own in (_SUM, _PRODUCT) else own + 1
        parts.append(text if tight >= enough else f"({text})")
    return template.format(*parts, real=real)


def whole(text: str) -> bool:
    """Whether a text is a name, a number or one call, which needs no brackets anywhere."""
    if re.fullmatch(r"\w[\w.]*", text):
        return True
    head = _HEAD.match(text)
    if head is None or not text.endswith(")"):
        return False
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter == ")":
            return place == len(text) - 1
    return False


def bound(end: float) -> str:
    """Spell an end of a range, in as few digits as tell it."""
    return f"{end:g}" if float(f"{end:g}") == end else repr(end)


__all__ = ["bound", "bracketed", "whole"]
