"""How operations are spelled in an exported torch file: Python's operators on numbers, torch's on tensors."""

from __future__ import annotations

from typing import NamedTuple

from ..graph.node import Node

ATOM, POWER, UNARY, PRODUCT, SUM, BOTH, EITHER, COMPARISON, NOT, AND, OR, CHOICE = range(14, 2, -1)
"""How tightly Python's expressions bind, the tightest first."""


class Text(NamedTuple):
    """An expression, and how tightly its outermost operator binds."""

    text: str
    binding: int = ATOM

    def within(self, least: int) -> str:
        """Return the text, in brackets if it binds less tightly than its place needs."""
        return self.text if self.binding >= least else f"({self.text})"


_OPERATORS = {
    "add": ("{} + {}", SUM), "sub": ("{} - {}", SUM), "mul": ("{} * {}", PRODUCT),
    "div": ("{} / {}", PRODUCT), "matmul": ("{} @ {}", PRODUCT),
    "lt": ("{} < {}", COMPARISON), "le": ("{} <= {}", COMPARISON), "gt": ("{} > {}", COMPARISON),
    "ge": ("{} >= {}", COMPARISON), "eq": ("{} == {}", COMPARISON), "ne": ("{} != {}", COMPARISON),
}  # fmt: skip
"""Infix operators, and how tightly they bind; what stands to the right binds more tightly, as it was written."""
_LOGIC = {"and": ("{} & {}", BOTH), "or": ("{} | {}", EITHER)}
_HOST_LOGIC = {"and": ("{} and {}", AND), "or": ("{} or {}", OR)}
METHODS = {"sqrt": "sqrt", "exp": "exp", "log": "log", "abs": "abs", "floor": "floor", "tanh": "tanh"}
"""What a tensor does by itself."""
FUNCTIONS = {"minimum": "torch.minimum", "maximum": "torch.maximum", "pow": "torch.pow", "atan2": "torch.atan2",
             "mod": "modulo"}  # fmt: skip
"""What takes two tensors, of which neither may be a number."""
_HOST = {"sqrt": "math.sqrt", "abs": "abs", "floor": "math.floor", "tanh": "math.tanh", "minimum": "min",
         "maximum": "max"}  # fmt: skip
BOUNDS = {"minimum": "max", "maximum": "min"}
"""The bound that `clamp` calls by this name."""


def literal(value: float) -> str:
    """Spell a number; a whole one without its point."""
    if value in (float("inf"), float("-inf")) or value != value:
        return {"inf": "math.inf", "-inf": "-math.inf"}.get(repr(value), "math.nan")
    return str(int(value)) if value == int(value) and abs(value) < 1e6 else repr(value)


def infix(op: str, left: Text, right: Text, *, host: bool = False) -> Text | None:
    """Spell an infix operator; None for any other operation."""
    if op in _OPERATORS:
        template, binding = _OPERATORS[op]
        return Text(template.format(left.within(binding + (binding == COMPARISON)), right.within(binding + 1)), binding)
    if op in _LOGIC:
        template, binding = (_HOST_LOGIC if host else _LOGIC)[op]
        return Text(template.format(left.within(binding), right.within(binding + 1)), binding)
    return None


def of_numbers(node: Node, inputs: list[Text]) -> Text:
    """Spell an operation on Python's numbers."""
    if node.op == "where":
        condition, yes, no = inputs
        return Text(f"{yes.within(OR)} if {condition.within(OR)} else {no.within(CHOICE)}", CHOICE)
    if node.op == "pow":
        return power(*inputs)
    if node.op in {"neg", "not"}:
        return negated(node.op, inputs[0], host=True)
    if node.op == "div" and node.inputs[1].kind == "size":  # 0 of an empty tensor, where nothing is computed
        inputs = [inputs[0], Text(f"max({inputs[1].text}, 1)")]
    if node.op == "mod":  # of a divisor above 0
        return Text(f"{inputs[0].within(PRODUCT)} % {inputs[1].within(UNARY)}", PRODUCT)
    found = infix(node.op, *(inputs * 2)[:2], host=True)
    return found or Text(f"{_HOST[node.op]}({', '.join(own.text for own in inputs)})")


def power(base: Text, exponent: Text) -> Text:
    """Spell a power as formatters have it: close together between names and numbers."""
    simple = all(own.text.replace(".", "").replace("_", "").isalnum() for own in (base, exponent))
    return Text(f"{base.within(ATOM)}{'**' if simple else ' ** '}{exponent.within(UNARY)}", POWER)


def negated(op: str, own: Text, *, host: bool = False) -> Text:
    """Spell a minus, or a no."""
    if op == "neg":
        return Text(f"-{own.within(UNARY)}", UNARY)
    return Text(f"not {own.within(NOT)}", NOT) if host else Text(f"~{own.within(UNARY)}", UNARY)


__all__ = ["ATOM", "BOUNDS", "CHOICE", "FUNCTIONS", "METHODS", "OR", "UNARY", "Text", "infix", "literal", "negated",
           "of_numbers"]  # fmt: skip
