"""The printer: a graph as the whiteboard writes it, in text and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from .chance import SITES
from .gauges import of_every_rule
from .graph import Graph
from .node import Node, Rank, read, topological
from .ops import OPS

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eps": "ε", "eta": "η", "lr": "η",
    "kappa": "κ", "lambda": "λ", "weight_decay": "λ", "mu": "μ", "nu": "ν", "rho": "ρ", "sigma": "σ", "tau": "τ",
    "theta": "θ", "phi": "φ", "psi": "ψ", "omega": "ω",
}  # fmt: skip
LETTERS = {letter: f"\\{name}" for name, letter in GREEK.items() if name not in {"lr", "weight_decay"}}
LETTERS["ε"] = r"\varepsilon"
BOARD = {"max_norm": ("S_g", "S_g"), "limit": ("L_g", "L_g"), "loss": ("L", "L")}
SUPERSCRIPTS, SUBSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"
_RAISED, _LOWERED = str.maketrans("0123456789", SUPERSCRIPTS), str.maketrans("0123456789", SUBSCRIPTS)
CASES = r"\begin{{cases}} {yes} & \text{{if }} {condition} \\ {no} & \text{{otherwise}} \end{{cases}}"
"""A choice where LaTeX has room for it."""
ALONE = -1
"""How tightly an expression must bind to stand without brackets where nothing is beside it: as it likes."""
LONGEST = 100
"""Operations that an expression may print before parts of it get names and lines of their own."""


def symbol(name: str, *, latex: bool) -> str:
    """Spell a name as mathematics does: `beta1` is β₁, `lr` is η, `max_norm` is S_g."""
    if name in BOARD:
        return BOARD[name][latex]
    match = re.fullmatch(r"([^\W\d]+?)_?(\d*)", name)
    stem, digits = match.groups() if match else (name, "")
    letter = GREEK.get(stem, stem)
    if latex:
        plain = stem if len(stem) == 1 and stem != "_" else r"\mathrm{" + stem.replace("_", r"\_") + "}"
        spelled = LETTERS.get(letter, plain)
        return f"{spelled}_{{{digits}}}" if digits else spelled
    return letter + digits.translate(_LOWERED)


def _number(value: float, *, latex: bool) -> str:
    text = f"{value:.12g}"
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text
    power = str(int(exponent))
    if latex:
        return f"{mantissa} \\cdot 10^{{{power}}}" if mantissa != "1" else f"10^{{{power}}}"
    return f"{mantissa}e{power}"


@dataclass(frozen=True)
class _Printer:
    """Prints nodes; `names` holds the nodes that already stand on the left of a line."""

    graph: Graph
    names: Mapping[Node, str]
    latex: bool
    cases: bool

    def dated(self, name: str, *, before: bool) -> str:
        """Spell an array at time t, or before it."""
        spelled = symbol(name, latex=self.latex)
        if not self.latex:
            return spelled + ("ₜ₋₁" if before else "ₜ")
        return (f"{{{spelled}}}" if "_" in spelled else spelled) + ("_{t-1}" if before else "_{t}")

    def at_parameter(self) -> str:
        """Spell the gradient at the parameter itself."""
        below = symbol(self.graph.parameter, latex=self.latex)
        return symbol(self.graph.gradient, latex=self.latex) + (f"_{{{below}}}" if self.latex else f"_{below}")

    def leaf(self, node: Node) -> str:
        if node.op == "const":
            return _number(float(node.attr), latex=self.latex)  # type: ignore[arg-type]
        if node.op == "step":
            return "t"
        if node.op == "hyper":
            return symbol(str(node.attr), latex=self.latex)
        if node.array == self.graph.gradient:
            return symbol(node.array, latex=self.latex)
        if node.array == self.graph.first:
            return self.at_parameter()
        return self.dated(node.array, before=True)

    def inner(self, node: Node, least: int) -> str:
        """Print a node, in brackets if it binds less tightly than its place needs."""
        if node in self.names:
            return self.names[node]
        text = self.show(node)
        binding = OPS[node.op].binding
        if node.op == "const" and text.startswith(("-", "−")):
            binding = 3
        return text if binding >= least else self.brackets(text)

    def brackets(self, text: str) -> str:
        return rf"\left( {text} \right)" if self.latex else f"({text})"

    def show(self, node: Node) -> str:
        """Print a node's own operation."""
        row = OPS[node.op]
        if node.kind == "leaf":
            return self.leaf(node)
        if node.kind == "chance":
            number = str(node.site - SITES + 1) if len(self.graph.draws) > 1 else ""
            under = f"_{{{number}}}" if self.latex and number else number.translate(_LOWERED)
            return (row.latex if self.latex else row.text).format(under)
        if node.op == "pow" and not self.latex and node.inputs[1].op == "const":
            exponent = self.leaf(node.inputs[1])
            if exponent.isdigit():
                return self.inner(node.inputs[0], 9) + exponent.translate(_RAISED)
        template = row.latex if self.latex else row.text
        if node.op == "where" and self.cases:
            condition, yes, no = (self.inner(child, ALONE) for child in node.inputs)
            return CASES.format(condition=condition, yes=yes, no=no)
        if (
            node.op == "mul"
            and not self.latex
            and "div" in {child.op for child in node.inputs if child not in self.names}
        ):
            template = "{} · {}"
        texts = [self.inner(x, self.least(node, i)) for i, x in enumerate(node.inputs)]
        if node.op in {"add", "sub", "mul"} and texts[1].startswith(("-", "−")):
            texts[1] = self.brackets(texts[1])  # a b is no a −b
        axis = node.attr.word if isinstance(node.attr, Rank) else ""
        under = (r"_{\mathrm{" + axis + "}}" if self.latex else f"_{axis}") if axis else ""
        return template.format(*texts, each=axis or "tensor", under=under)

    def least(self, node: Node, place: int) -> int:
        """Return how tightly the input at this place must bind to stand without brackets."""
        fraction = node.op == "div" and self.latex
        if fraction or (node.op == "pow" and place == 1 and self.latex) or OPS[node.op].binding == 9:
            return ALONE
        own = OPS[node.op].binding
        if node.op in {"pow", "matmul"}:  # products of elements are written with no sign
            return 9 if node.op == "pow" else 4
        tighter = (node.op in {"sub", "div"} and place == 1) or node.op == "neg"
        return own + 1 if tighter else own


def _parts(node: Node, names: Mapping[Node, str]) -> list[Node]:
    """List the parts of a long expression that need names; printed in full it might have no end."""
    size: dict[Node, int] = {}
    parts: list[Node] = []
    for part in topological([node], names):
        size[part] = 1 if part in names else 1 + sum(size[child] for child in part.inputs)
        if size[part] > LONGEST and part is not node:
            size[part] = 1
            parts.append(part)
    return parts


def _lines(graph: Graph, *, latex: bool, cases: bool) -> list[tuple[str, str]]:
    """List the (left, right) sides of every equation, each using the names of those above it."""
    names: dict[Node, str] = {}
    lines: list[tuple[str, str]] = []
    numbers = count(1)
    printer = _Printer(graph, names, latex, cases)

    def name_parts(node: Node) -> None:
        for part in _parts(node, names):
            left = symbol(f"x{next(numbers)}", latex=latex)
            lines.append((left, printer.show(part)))
            names[part] = left

    if graph.evaluate_at is not None:
        loss = r"\nabla L\left({}\right)" if latex else "∇L({})"
        if graph.first:
            lines.append((printer.at_parameter(), loss.format(printer.dated(graph.parameter, before=True))))
        if not graph.implicit:
            name_parts(graph.evaluate_at)
        point = printer.dated(graph.parameter, before=False) if graph.implicit else printer.show(graph.evaluate_at)
        lines.append((symbol(graph.gradient, latex=latex), loss.format(point)))
    for index, node in enumerate(graph.gradients, start=1):
        name_parts(node)
        base = symbol(graph.gradient, latex=latex)
        left = base + ("^{" + "*" * index + "}" if latex else "*" * index)
        lines.append((left, printer.show(node)))
        names[node] = left
    for name, node in (*graph.outputs[1:], graph.outputs[0]):
        if _unsaid(graph, name, node):
            continue
        name_parts(node)
        left = printer.dated(name, before=False)
        lines.append((left, printer.inner(node, ALONE)))
        if node.kind != "leaf":
            names[node] = left
    for item in graph.gauges:
        if not of_every_rule(item.name):
            name_parts(item.formula)
            lines.append((_plain(item.name) if latex else item.name, printer.show(item.formula)))
    return lines


def _unsaid(graph: Graph, name: str, node: Node) -> bool:
    """Whether an output is none of the formula's: a transform by itself gives a gradient and no parameter."""
    passed = graph.evaluate_at is not None and node is read(graph.gradient)
    alone = name == graph.parameter and (passed or graph.gradients.get(node) == graph.name)
    return alone or name == graph.first


def _plain(name: str) -> str:
    """Spell a gauge's name as words of LaTeX."""
    return r"\mathrm{" + name.replace("_", r"\_").replace(" ", r"\ ") + "}"


def formula(graph: Graph) -> str:
    """Print a rule as text, one equation a line: transforms, then slots, then the parameter."""
    return "\n".join(f"{left} = {right}" for left, right in _lines(graph, latex=False, cases=False))


def equations(graph: Graph) -> tuple[str, ...]:
    """Return one line of plain LaTeX an equation; matplotlib's mathtext reads it too."""
    return tuple(f"{left} = {right}" for left, right in _lines(graph, latex=True, cases=False))


def latex(graph: Graph) -> str:
    """Return the rule as one `align*` environment (needs the amsmath package)."""
    body = " \\\\\n".join(f"  {left} &= {right}" for left, right in _lines(graph, latex=True, cases=True))
    return "\\begin{align*}\n" + body + "\n\\end{align*}"


def one_line(node: Node, graph: Graph) -> str:
    """Print one expression of a graph, for listings of reductions; parts of a long one are left out."""
    return _Printer(graph, dict.fromkeys(_parts(node, {}), "…"), latex=False, cases=False).show(node)
