"""Host scalars as Python: what depends on hyperparameters and counts alone, in torch's float64, a row a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..backends.text import Names
from ..graph.node import Node, topological
from ..graph.ops import OPS
from .expressions import bracketed, whole

_SPELLING = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "pow": "{} ** {}", "neg": "-{}",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
    "sign": "torch.where({0} != {0}, {0}, torch.sgn({0}))", "mod": "torch.remainder({}, {}) + 0.0",
    "and": "torch.logical_and({}, {})", "or": "torch.logical_or({}, {})", "not": "torch.logical_not({})",
}  # fmt: skip
"""What is not torch's function of the operation's name."""
RESERVED = ("hyper", "counts", "host", "new", "torch", "float", "t")
LONG = 80
"""How long an expression is, about."""


class HostScalars:
    """Writes the lines of a function of `hyper` and `counts`, tables in float64 with a row a tensor.

    What is used twice has a name; the rest stands where it is used. `numbers` and `held` name the columns of the two
    tables; `t` is the count after this step.
    """

    def __init__(self, roots: Sequence[Node], numbers: Sequence[str], held: Sequence[str]) -> None:
        self.lines: list[str] = []
        self._fresh = Names(RESERVED)
        columns = [(table, name) for table, names in (("hyper", numbers), ("read", held)) for name in names]
        self._leaves = {column: "t" if column[1] == "t" else self._fresh.fresh(column[1]) for column in columns}
        used = {_column(node) for node in topological(roots) if not node.inputs and node.op != "const"}
        for table in ("hyper", "read"):
            own = [name if key in used else f"_{name}" for key, name in self._leaves.items() if key[0] == table]
            if own != ["t"] and any(key[0] == table for key in used):
                given = "hyper" if table == "hyper" else "counts"
                self.lines.append(f"{', '.join(own)} = {given}.unbind(1)" if own[1:] else f"{own[0]} = {given}[:, 0]")
        self._names, self._tensors = dict[Node, str](), dict[Node, str]()
        users = Counter([child for node in topological(roots) for child in node.inputs] + list(roots))
        for node in topological(roots):
            if node.inputs and (users[node] > 1 or len(self._spelled(node)) > LONG):
                text, self._names[node] = self._spelled(node), self._fresh.fresh("x")
                self.lines.append(f"{self._names[node]} = {text}")

    def value(self, node: Node) -> str:
        """Spell a value."""
        return self._names.get(node) or self._spelled(node)

    def _spelled(self, node: Node) -> str:
        if node.op == "const":
            value = float(node.attr)  # type: ignore[arg-type]
            return repr(value) if repr(value)[-1].isdigit() else f'float("{value}")'
        if node.op == "step":
            return "t"
        if not node.inputs:
            return self._leaves[_column(node)]
        places = ", ".join(["{}"] * len(node.inputs))
        template = _SPELLING.get(node.op, f"torch.{OPS[node.op].torch}({places})")
        given = [self.value(child) for child in node.inputs]
        if template.startswith("torch."):  # whose functions want tensors
            given = [self._tensor(child) if child.op == "const" else text
                     for child, text in zip(node.inputs, given, strict=True)]  # fmt: skip
        if node.op == "pow" and all(whole(text.removeprefix("-")) and "(" not in text for text in given):
            template = "{}**{}"  # as formatters have it
        return bracketed(template, node, given)

    def _tensor(self, node: Node) -> str:
        """Spell a number as a tensor, which has a line of its own."""
        if node not in self._tensors:
            self._tensors[node] = self._fresh.fresh("constant")
            self.lines.append(f"{self._tensors[node]} = torch.tensor({self.value(node)}, dtype=torch.float64)")
        return self._tensors[node]


def _column(node: Node) -> tuple[str, str]:
    """Return the table and the column in which a leaf stands."""
    return ("hyper", str(node.attr)) if node.op == "hyper" else ("read", "t" if node.op == "step" else node.array or "")


def host_function(
    host: Sequence[Node], new: Sequence[tuple[str, Node]], numbers: Sequence[str], held: Sequence[str]
) -> list[str]:
    """Return the lines of `host_scalars`: the table that kernels read, and new host slots if there are some.

    It is given the counts with this step counted: `t` alone, or a table whose columns are `held`.
    """
    written = HostScalars([*host, *(node for _, node in new)], numbers, held)
    values, kept = [written.value(node) for node in host], [(name, written.value(node)) for name, node in new]
    given = "hyper, t" if list(held) == ["t"] else "hyper, counts" if held else "hyper"
    lines = [
        f"def host_scalars({given}):",
        '    """Compute what is the same for all elements of a tensor, in float64: a row a tensor."""',
        *(f"    {line}" for line in written.lines),
    ]
    if host:
        lines.append(f"    host = torch.empty(len(hyper), {len(host)}, dtype=torch.float64)")
        lines += [f"    host[:, {place}] = {value}" for place, value in enumerate(values)]
    if new:
        lines.append("    new = counts.clone()")
        lines += [f"    new[:, {held.index(name)}] = {value}" for name, value in kept]
    return [*lines, f"    return {', '.join(['host'] * bool(host) + ['new'] * bool(new))}"]
