"""Which arithmetic on hyperparameters Python's numbers can do: what divides by no zero, and roots nothing below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..graph.graph import Hyper
from ..graph.node import Node

PLAIN = frozenset({"add", "sub", "mul", "neg", "abs", "minimum", "maximum", "where", "floor", "tanh"})
"""Operations that Python's numbers have for all arguments."""
TRUTHS = frozenset({"compare", "logic", "leaf", "size"})
LARGEST_POWER = 8.0


class Signs:
    """Signs of host numbers, as far as the ranges of hyperparameters and the formula tell them."""

    def __init__(self, hypers: Iterable[Hyper]) -> None:
        self._hypers: Mapping[str, Hyper] = {own.name: own for own in hypers}

    def plain(self, nodes: Iterable[Node]) -> bool:
        """Whether Python's numbers will do for all host arithmetic among these."""
        return all(map(self._plain, nodes))

    def _plain(self, node: Node) -> bool:
        if node.op in PLAIN or node.kind in TRUTHS:
            return True
        if node.op in {"div", "mod"}:
            return self.positive(node.inputs[1]) or (node.op == "div" and node.inputs[1].kind == "size")
        if node.op == "sqrt":
            return self.not_negative(node.inputs[0])
        return node.op == "pow" and self._power(*node.inputs)

    def _power(self, base: Node, exponent: Node) -> bool:
        small = exponent.op == "const" and abs(float(exponent.attr)) <= LARGEST_POWER  # type: ignore[arg-type]
        if base.op == "step":
            return small
        return (self._up_to_1(base) or small) and self.not_negative(base) and self.not_negative(exponent)

    def positive(self, node: Node) -> bool:
        """Whether a number is surely above 0."""
        a, b = (*node.inputs, None, None)[:2]
        if node.op == "const":
            return float(node.attr) > 0  # type: ignore[arg-type]
        if node.op == "step":
            return True
        if node.op == "hyper" and str(node.attr) in self._hypers:
            own = self._hypers[str(node.attr)]
            return (own.low or 0) > 0 or (own.above is not None and own.above >= 0)
        if a is None:
            return False
        if b is None:
            return node.op == "sqrt" and self.positive(a)
        if node.op in {"mul", "div", "minimum"}:
            return self.positive(a) and self.positive(b)
        if node.op == "maximum":
            return self.positive(a) or self.positive(b)
        if node.op == "add":
            return any(self.positive(x) and self.not_negative(y) for x, y in ((a, b), (b, a)))
        return node.op == "sub" and a.op == "const" and float(a.attr) >= 1 and self._below_1(b)  # type: ignore[arg-type]

    def not_negative(self, node: Node) -> bool:
        """Whether a number is surely 0 or more."""
        if self.positive(node) or node.kind == "size" or (node.op == "const" and float(node.attr) >= 0):  # type: ignore[arg-type]
            return True
        if node.op == "hyper" and str(node.attr) in self._hypers:
            own = self._hypers[str(node.attr)]
            return own.low is not None and own.low >= 0
        if node.op == "sub":
            a, b = node.inputs
            return a.op == "const" and float(a.attr) >= 1 and self._up_to_1(b)  # type: ignore[arg-type]
        if node.op in {"pow", "sqrt", "abs"}:
            return node.op != "pow" or self.not_negative(node.inputs[0])
        if node.op == "maximum":
            return any(map(self.not_negative, node.inputs))
        return node.op in {"add", "mul", "div", "minimum"} and all(map(self.not_negative, node.inputs))

    def _below_1(self, node: Node) -> bool:
        """Whether a number is surely below 1."""
        if node.op == "hyper" and str(node.attr) in self._hypers:
            own = self._hypers[str(node.attr)]
            return (own.below is not None and own.below <= 1) or (own.high is not None and own.high < 1)
        if node.op == "pow":
            base, exponent = node.inputs
            return self._below_1(base) and self.not_negative(base) and self.positive(exponent)
        return node.op == "const" and float(node.attr) < 1  # type: ignore[arg-type]

    def _up_to_1(self, node: Node) -> bool:
        """Whether a number is surely 1 or less."""
        if node.op == "hyper" and str(node.attr) in self._hypers:
            high = self._hypers[str(node.attr)].high
            return self._below_1(node) or (high is not None and high <= 1)
        if node.op == "pow":
            base, exponent = node.inputs
            return self._up_to_1(base) and self.not_negative(base) and self.not_negative(exponent)
        return self._below_1(node) or (node.op == "const" and float(node.attr) <= 1)  # type: ignore[arg-type]


__all__ = ["Signs"]
