"""One formula as a function of an exported torch file: the update of one tensor, line by line as it is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..backends.text import Names, Source
from ..graph.node import Node, Rank, read, step, topological
from ..graph.ops import OPS
from ..plan.program import Program
from ..plan.schedule import kept
from .signs import Signs
from .torch_lines import LONGEST, RESERVED, asks, decided, hosted, made, read_together
from .torch_sums import finished, joined
from .torch_words import (
    ATOM,
    BOUNDS,
    CHOICE,
    FUNCTIONS,
    METHODS,
    OR,
    UNARY,
    Text,
    infix,
    literal,
    negated,
    of_numbers,
)


@dataclass
class Function:
    """The text of an update, and what its file must have besides."""

    text: str
    asks: bool
    """Whether it is a generator, which asks for what all tensors make together."""
    moves: bool = False
    """Whether it moves a parameter to another point, and updates nothing."""


class Update:
    """Writes the update of one tensor.

    One that `moves` a parameter writes nothing else; t is so many steps after those that were counted.
    """

    def __init__(
        self, name: str, program: Program, reading: Mapping[str, str], labels: Mapping[Node, str],
        moves: int = -1,
    ) -> None:  # fmt: skip
        self.moves = moves
        self.name, self.graph, self.layout = name, program.plan.graph, program.layout
        self.reading, self.labels = reading, labels
        self.drawn = {
            store.array.name: store.draw for loop in program.loops for store in loop.stores if store.draw >= 0
        }
        graph = self.graph
        self.outputs = [(own, node) for own, node in graph.outputs if node.array != own]
        self.outputs = [pair for pair in self.outputs if moves < 0 or pair[0] == graph.parameter]
        self.roots = [node for _, node in self.outputs]
        self.nodes = topological(self.roots)
        self.hosted = hosted(self.nodes)
        self.plain = Signs(graph.hypers).plain(self.hosted)
        self.lined = any(node.rank > Rank.TENSOR and node.rank is not Rank.ELEMENT for node in self.nodes)
        self.lined = self.lined or any(node.kind == "matrix" or node.op in {"rows", "columns"} for node in self.nodes)
        self.source = Source(graph.origins)
        self.fresh = Names({*RESERVED, *graph.ranks, *(own.name for own in graph.hypers), "t"})
        given = [*graph.ranks, *(own.name for own in graph.hypers)]
        self.local = {own: self.fresh.fresh(f"{own}_value") if own in RESERVED else own for own in given}
        self.names: dict[Node, str] = {}
        self.narrow: dict[Node, str] = {}
        self.asks = False
        parents = [child for node in self.nodes for child in node.inputs]
        counts = {node: parents.count(node) for node in set(parents)}
        self.several = {node for node, count in counts.items() if count > 1} | set(self.roots)
        self.decided = decided(self.roots, self.hosted)
        self.inside = {own for nodes in self.decided.values() for own in nodes}
        self.titles = {node: own for own, node in reversed(self.outputs)}

    def function(self) -> Function:
        """Return the function."""
        extra = ", place" * self.draws + ", loss" * self.graph.uses_loss
        with self.source.block(f"def {self.name}(parameter, gradient, state, group{extra}):"):
            self.source.line(f'"""{self._sentence()}"""')
            reads = self._read()
            for node in self.nodes:
                if node not in self.names and node not in self.inside and made(node) and self._must(node):
                    self._assign(node)
            self._write()
        head, *body = [*self.source.text().rstrip("\n").split("\n", 2), ""][:3]
        words = set(re.findall(r"\w+", "\n".join(re.sub(r'"[^"]*"|#.*', "", line) for line in body[1].splitlines())))
        lines = read_together([(name, text) for name, text in reads if name in words])
        text = "\n".join([head, body[0], *lines, body[1]]).rstrip("\n") + "\n"
        return Function(text, self.asks, self.moves >= 0)

    @property
    def draws(self) -> bool:
        """Whether it draws."""
        return self.layout.random or any(node.kind == "chance" for node in self.nodes)

    def _sentence(self) -> str:
        waits = any(map(asks, self.nodes))
        if self.moves >= 0:
            return "Move one tensor to another point; its state stays."
        return "Update one tensor" + ("; what it yields is asked of all tensors together." if waits else ".")

    def _must(self, node: Node) -> bool:
        return node in self.several or asks(node) or node in self.graph.gradients or node in self.decided

    # Reading -------------------------------------------------------------------------------------

    def _read(self) -> list[tuple[str, str]]:
        """Name hyperparameters, the count of steps and arrays; return how each is read."""
        wrap, found = "float" if self.plain else "scalar", list[tuple[str, str]]()
        for node in self.nodes:
            if node.op == "hyper":
                self.names[node] = self.local[str(node.attr)]
                found.append((self.names[node], f"{wrap}({self.reading[str(node.attr)]})"))
            elif node is step():
                self.names[node] = "t"
        found.append(("t", f'{wrap}(state["step"])' + " + 1" * (self.moves != 0)))
        for name, rank in self.graph.ranks.items():
            self.names[read(name, rank)] = self.local[name]
            found.append((self.local[name], self._array(name, rank)))
        return found

    def _array(self, name: str, rank: Rank) -> str:
        own = {self.graph.parameter: "parameter", self.graph.gradient: "gradient"}.get(name, f'state["{name}"]')
        if rank is Rank.HOST:
            return f"{'float' if self.plain else 'scalar'}({own})"
        if rank is Rank.ELEMENT:
            return f"{'matrix' if self.lined else 'working'}({own})"
        if rank.apart:
            return own
        wide = f"{own}.double()"
        if rank is Rank.GLOBAL:
            return f"{wide}.clone()"
        return wide if rank is Rank.TENSOR else f"{wide}.reshape({self._view(rank)})"

    def _view(self, rank: Rank) -> str:
        return "-1, 1" if rank is Rank.ROW else "1, -1"

    # Computing -----------------------------------------------------------------------------------

    def _assign(self, node: Node, wanted: str = "") -> None:
        """Give a node a name and a line."""
        if node in self.decided:
            self.source.comment(node)
            self.names[node] = self._decide(node, self._named(node, wanted))
            return
        text = self._ask(node) if asks(node) else self._expression(node).text
        self.source.comment(node)
        name = self._named(node, wanted)
        self.source.line(f"{name} = {text}")
        self.names[node] = name

    def _decide(self, node: Node, name: str, word: str = "if") -> str:
        """Compute only that branch of a choice that is chosen, under a name; return that."""
        condition, yes, no = node.inputs
        with self.source.block(f"{word} {self._operand(condition, node).text}:"):
            self._branch(node, yes, name)
        if no in self.decided and no in self.decided[node]:
            return self._decide(no, name, "elif")
        with self.source.block("else:"):
            self._branch(node, no, name)
        return name

    def _branch(self, node: Node, own: Node, name: str) -> None:
        """Compute one branch of a choice, after what only this needs."""
        for part in topological([own]):
            needed = part in self.decided[node] and part is not own and part not in self.names
            if needed and made(part) and self._must(part):
                self._assign(part)
        asked = asks(own) and own not in self.names
        text = self._ask(own) if asked else self._operand(own, node).text
        if self._scalar(own):
            text = f"torch.full_like({self._like()}, {text})" if node.rank is Rank.ELEMENT else self._typed(text)
        self.source.line(f"{name} = {text}")

    def _named(self, node: Node, wanted: str) -> str:
        title = self.titles.get(node, "")
        if title:
            return self.fresh.fresh(f"new_{title}")
        if node in self.graph.gradients:
            return self.fresh.fresh(self.graph.gradient)
        kinds = {"global": "total", "matrix": "found", "tensor": "length"}
        return self.fresh.fresh(wanted or kinds.get(node.kind, "rate" if node.rank is Rank.HOST else "x"))

    def _expression(self, node: Node) -> Text:
        """Spell a node; parts of a long expression get names first."""
        while len((found := self._spell(node)).text) > LONGEST:
            parts = [child for child in node.inputs if child.inputs and child not in self.names]
            if not parts:
                break
            self._assign(max(parts, key=lambda child: len(self._spell(child).text)))
        return found

    def _operand(self, node: Node, user: Node) -> Text:
        """Spell an input, as its user takes it."""
        own = Text(self.names[node]) if node in self.names else self._leaf(node) or self._expression(node)
        element = user.rank is Rank.ELEMENT or user.rank.apart
        lines = Rank.TENSOR < node.rank < Rank.ELEMENT
        if element and lines and not node.truth:
            return Text(f"{own.within(ATOM)}.to({self._like()}.dtype)")
        return own

    def _like(self) -> str:
        """Name a tensor of the type that is computed in, where this is computed."""
        return self.local[self.graph.parameter]

    def _leaf(self, node: Node) -> Text | None:
        if node.op == "const":
            text = literal(float(node.attr))  # type: ignore[arg-type]
            return Text(text, UNARY if text.startswith("-") else ATOM)
        if node.kind == "size":
            text = {"rows": "shape[0]", "columns": "shape[1]"}.get(node.op, "numel()")
            text = f"{self._like()}.{text}"
            return Text(text if self.plain else f"scalar({text})")
        return None

    def _spell(self, node: Node) -> Text:
        if node in self.names:
            return Text(self.names[node])
        found = self._leaf(node)
        if found is not None:
            return found
        if node.kind == "chance":
            return Text(f"{node.op}({self._like()}, place, t, {node.site})")
        if node.reduces:
            return self._reduced(node)
        inputs = [self._operand(child, node) for child in node.inputs]
        if self._python(node):
            return of_numbers(node, inputs)
        return self._of_tensors(node, inputs)

    def _tensor(self, node: Node, own: Text) -> str:
        """Spell an input that must be a tensor."""
        if self._scalar(node):
            return self._typed(own.text)
        return own.text

    def _typed(self, text: str) -> str:
        return f"typed({text}, {self._like()})"

    def _python(self, node: Node) -> bool:
        """Whether a value is one of Python's numbers."""
        return node.op == "const" or (self.plain and node in self.hosted)

    def _scalar(self, node: Node) -> bool:
        """Whether a value is one number: of Python, or a tensor without dimensions, in float64."""
        return (node.rank <= Rank.TENSOR) and not node.truth

    def _of_tensors(self, node: Node, inputs: list[Text]) -> Text:
        """Spell an operation on tensors, of which some inputs may be numbers."""
        element = node.rank is Rank.ELEMENT or node.rank.apart
        if node.op == "where":
            return self._where(node, inputs)
        if node.op in {"neg", "not"}:
            return negated(node.op, inputs[0])
        if node.op == "sign":
            return Text(f"sign({inputs[0].text})")
        if node.op in METHODS:
            return Text(f"{inputs[0].within(ATOM)}.{METHODS[node.op]}()")
        numbers = list(map(self._python, node.inputs))
        if node.op in BOUNDS and any(numbers):
            place = numbers.index(True)
            return Text(f"{inputs[1 - place].within(ATOM)}.clamp({BOUNDS[node.op]}={inputs[place].text})")
        if node.op in FUNCTIONS:
            texts = [own.text for own in inputs]
            if element:
                texts = [self._tensor(child, own) for child, own in zip(node.inputs, inputs, strict=True)]
            else:
                texts = [f"scalar({own.text})" if is_ else own.text for is_, own in zip(numbers, inputs, strict=True)]
            return Text(f"{FUNCTIONS[node.op]}({', '.join(texts)})")
        if node.op == "div" and element and self._scalar(node.inputs[0]):
            inputs[0] = Text(self._typed(inputs[0].text))
        elif node.op == "div" and numbers[0]:
            inputs[0] = Text(f"scalar({inputs[0].text})")
        found = infix(node.op, *inputs)
        assert found is not None, node.op
        return found

    def _where(self, node: Node, inputs: list[Text]) -> Text:
        condition, yes, no = inputs
        if node.inputs[0] in self.hosted:
            branches = zip(node.inputs[1:], (yes, no), strict=True)
            if node in self.hosted:  # in tensors' arithmetic
                yes, no = (Text(f"scalar({own.text})") if child.op == "const" else own for child, own in branches)
            elif node.rank is Rank.ELEMENT:
                yes, no = (Text(f"torch.full_like({self._like()}, {own.text})") if self._scalar(child) else own
                           for child, own in branches)  # fmt: skip
            return Text(f"{yes.within(OR)} if {condition.within(OR)} else {no.within(CHOICE)}", CHOICE)
        element = node.rank is Rank.ELEMENT or node.rank.apart
        scalars = [self._scalar(child) for child in node.inputs[1:]]
        first = yes.text
        if element and all(scalars):
            first = self._typed(yes.text)
        elif not element and all(map(self._python, node.inputs[1:])):
            first = f"scalar({yes.text})"
        elif element:
            first, second = (
                self._typed(own.text) if is_ and not self._python(child) else own.text
                for is_, child, own in zip(scalars, node.inputs[1:], (yes, no), strict=True)
            )
            return Text(f"torch.where({condition.text}, {first}, {second})")
        return Text(f"torch.where({condition.text}, {first}, {no.text})")

    def _reduced(self, node: Node) -> Text:
        """Spell a reduction over one tensor, its rows or columns."""
        return finished(node, self._part(node), self._like())

    def _part(self, node: Node) -> str:
        """Spell what elements are joined to, before it is finished."""
        child = node.inputs[0]
        return joined(node, self._operand(child, child), number=self._python(child))

    def _ask(self, node: Node) -> str:
        """Spell what is asked of all tensors together, after a line that asks."""
        self.asks = True
        if node.kind == "global":
            part = self._part(node)
            name = self.fresh.fresh("total")
            self.source.comment(node)
            self.source.line(f'{name} = yield "{self.labels[node]}", {part}')
            return f"{name}.sqrt()" if node.reducer.finish == "sqrt" else name
        new = kept(node)
        inputs = self._inputs(node, new)
        for child in new:
            if len(inputs) > LONGEST and child.inputs and child not in self.names:
                self._assign(child)
                inputs = self._inputs(node, new)
        asked = f"yield {FUNCTION_OF.get(node.op, node.op)}, {inputs}"
        return f"working(({asked}))" if OPS[node.op].half else asked

    def _inputs(self, node: Node, new: Sequence[Node]) -> str:
        """Spell what a function of matrices takes: in brackets what is new, as numbers what decides."""
        texts: list[str] = []
        for place, child in enumerate(node.inputs):
            text = self._operand(child, node).text
            beside = place >= OPS[node.op].taken and not self._python(child)
            texts.append(f"[{text}]" if child in new else f"float({text})" if beside else text)
        return ", ".join(texts)

    # Writing -------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write what is new, when all of it is known."""
        for node in self.roots:
            if node not in self.names and made(node):
                self._assign(node)
        if self.graph.global_slots and self.moves < 0:
            self.asks = True
            self.source.line('yield "", torch.zeros(())  # all have read before one writes')
        copies = [(own, node) for own, node in self.outputs if own != self.graph.parameter]
        copies += [(own, node) for own, node in self.outputs if own == self.graph.parameter]
        kept = {own: self._kept(own, node) for own, node in copies}
        for own, node in copies:
            self.source.line(self._stored(own, node, kept[own]))
        if self.moves < 0 and (self.graph.uses_step or self.layout.random):
            self.source.line('state["step"] += 1')

    def _kept(self, own: str, node: Node) -> str:
        """Name what is to be written; what is read for that, and written itself, is read before."""
        text = self.names.get(node) or self._leaf(node).text  # type: ignore[union-attr]
        if node.op == "read" and node.rank is not Rank.HOST and any(node.array == name for name, _ in self.outputs):
            old, text = text, self.fresh.fresh(f"new_{own}")
            self.source.line(f"{text} = {old}.clone()")
        return text

    def _stored(self, own: str, node: Node, text: str) -> str:
        rank = self.graph.ranks[own]
        target = "parameter" if own == self.graph.parameter else f'state["{own}"]'
        if rank is Rank.HOST or self._scalar(node):
            return f"{target}.fill_({text})"
        if own in self.drawn:
            bits = f"random_bits(parameter, place, t, {self.drawn[own]})"
            shape = ".reshape(parameter.shape)" if self.lined else ""
            return f"{target}.copy_(stochastic({text}{shape}, {target}, {bits}))"
        if node.rank is not rank and node.rank > Rank.TENSOR and not rank.apart:
            text = f"{text}.expand({self._like()}.shape)"
        if self.lined and not rank.apart:
            text = f"{text}.reshape({target}.shape)" if rank >= Rank.ROW or rank >= Rank.COLUMN else text
        return f"{target}.copy_({text})"


FUNCTION_OF = {"matmul": "torch.matmul", "transpose": "torch.adjoint"}


def written(
    name: str, program: Program, reading: Mapping[str, str], labels: Mapping[Node, str], *, moves: int = -1
) -> Function:
    """Return an update's function."""
    return Update(name, program, reading, labels, moves).function()


__all__ = ["Function", "Update", "written"]
