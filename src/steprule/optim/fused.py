"""Queries, keys and values in one matrix, where the lines of a module show that they lie one behind the other.

That a layer gives three times as many numbers does not tell: some models have those of one head side by side. What is
done with its result does: it is split, or seen as three times what follows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any, NamedTuple

from torch import nn

from .uses import Layer, lines_of


class _Taken(NamedTuple):
    """A method that a class calls on what its layer of a name gives, with the arguments."""

    layer: str
    method: str
    arguments: tuple[ast.expr, ...]


def fused(model: nn.Module, layer: Layer) -> tuple[Any, str] | None:
    """Return how a layer's matrix is split into queries, keys and values, and what shows it; or None."""
    path, _, name = layer.path.rpartition(".")
    if not path or layer.weight.ndim != 2:
        return None
    module = model.get_submodule(path)
    for taken in _taken(type(module)):
        sizes = _sizes(module, taken, layer.gives) if taken.layer == name else []
        if len(sizes) == 3 and sum(sizes) == layer.gives:
            parts = 3 if len(set(sizes)) == 1 else tuple(sizes)
            columns = layer.weight.shape[0] != layer.gives
            shown = f"{type(module).__name__} takes three apart by {taken.method}"
            return ("columns", parts) if columns else parts, shown
    return None


@cache
def _taken(kind: type) -> tuple[_Taken, ...]:
    """List what the methods of a class, its own or inherited, do with what its layers give."""
    methods: dict[str, ast.FunctionDef] = {}
    for tree in lines_of(kind):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                methods.setdefault(node.name, node)
    return tuple(found for method in methods.values() for found in _in(method))


def _in(function: ast.FunctionDef) -> Iterator[_Taken]:
    """Give what a function does with results of layers, directly or by the names that they are given."""
    nodes = list(ast.walk(function))
    given: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (layer := _layer(node.value)):
            given.setdefault(node.targets[0].id, layer)
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            layer = given.get(of.id, "") if isinstance(of, ast.Name) else _layer(of)
            if layer:
                yield _Taken(layer, node.func.attr, tuple(node.args))


def _layer(value: ast.expr) -> str:
    """Return the name of the layer that gives a value: it is called, or its weight is handed to `linear`."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)):
        return ""
    if value.func.attr != "linear":
        return _of_self(value.func)
    handed = [*value.args, *(key.value for key in value.keywords)]
    weights = [own.value for own in handed if isinstance(own, ast.Attribute) and own.attr == "weight"]
    return next(filter(None, map(_of_self, weights)), "")


def _of_self(node: ast.expr) -> str:
    """Return the name of an attribute of `self`, or ""."""
    its = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if its else ""  # type: ignore[attr-defined]


def _sizes(module: nn.Module, taken: _Taken, gives: int) -> list[int]:
    """Return the numbers of features in each part of what a layer gives; none if this does not take it apart."""
    told = [_value(module, own) for own in taken.arguments]
    if taken.method == "chunk" and told[:1] == [3]:
        return [gives // 3] * 3
    if taken.method == "split" and told and isinstance(told[0], list):
        return told[0]
    if taken.method == "split" and told and isinstance(told[0], int):
        return [told[0]] * (gives // told[0] if told[0] > 0 else 0)
    written = [place for place, own in enumerate(taken.arguments) if isinstance(own, ast.Constant) and own.value == 3]
    if taken.method in {"reshape", "view"} and written:  # an attribute of 3 may be the number of heads
        inner = told[written[-1] + 1 :]  # heads, and the numbers of a head
        known = [size for size in inner if isinstance(size, int) and size > 0]
        fits = gives // 3 == prod(known) if len(known) == len(inner) else gives // 3 % prod(known) == 0
        return [gives // 3] * 3 if len(inner) > 1 and len(inner) - len(known) < 2 and fits else []
    return []


def _value(module: nn.Module, node: ast.expr) -> int | list[int] | None:
    """Return a number, or numbers, that stand in a line or in an attribute of the module; None if it is neither."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        sizes = [_value(module, own) for own in node.elts]
        return [size for size in sizes if isinstance(size, int)] if all(type(own) is int for own in sizes) else None
    held: Any = getattr(module, _of_self(node) or "-", None)
    if isinstance(held, list | tuple) and all(type(own) is int for own in held):  # pyright: ignore[reportUnknownVariableType]
        return list(held)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return held if type(held) is int else None
