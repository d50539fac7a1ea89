"""Slots in 8 bits in Numba's kernels: blocks of groups, walked over three times while they are in the nearest cache.

First all is computed that the new numbers of such slots are made of; they are kept on the stack, with the greatest of
each group. Then what else changes is computed and written, then codes. The first loop writes to the stack alone, where
nothing can be what another pointer reads; and of short loops a processor has more turns at work at once: a root is
waited for in one, a division in the other.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..graph.node import Node, topological
from ..plan.groups import BLOCK, GROUP, LANES
from ..plan.program import Accumulate, Array, Compute, Keep, Load, Loop, Store
from ..plan.storage import units_of
from .numba_kept import KeptInGroups

ROOMS = {"kept": "block", "unit": "lane", "inverse": "lane", "most": "word"}
"""The tables on the stack for a slot in 8 bits: its new numbers, its units, their inverses, the greatest magnitudes."""


@dataclass(frozen=True)
class Halves:
    """A loop in two: what is needed before a block is coded, and the stores that can follow."""

    first: Loop
    second: Loop
    held: tuple[Node, ...] = ()
    """What the second needs of the first: numbers that it does not read or compute again."""


def halves(loop: Loop, coded: Sequence[Store], waiting: Iterable[Node]) -> Halves:
    """Cut a loop. Roots that are kept anyway are computed in the first half, since it would compute them twice."""
    asked = [part.store for part in loop.body if isinstance(part, Keep)]
    later = [store for store in loop.stores if store not in coded and store not in asked]
    parts = {part.node: part for part in loop.body if isinstance(part, Load | Compute)}
    kept = {store.node for store in coded if store.array.format.name == "uint8"}
    needed = [part.node for part in loop.body if part not in later and not isinstance(part, Load | Compute)]
    needed += [node for node in parts if node.op == "sqrt" and node.inputs[0] in kept]
    needed += [*waiting, *(part.node for part in loop.loads if part.array.format.grouped or asked)]  # not read again
    early, again, held = set(topological(needed)), set[Node](), dict[Node, None]()
    stack = [store.node for store in later]
    while stack:
        node = stack.pop()
        part = parts.get(node)
        if part is None or node in again or node in held:
            continue
        once = not isinstance(part, Load) or part.array.format.grouped or bool(asked)
        if once and node in early and not node.truth:
            held[node] = None
        else:
            again.add(node)
            stack.extend(node.inputs)
    one = [part for part in loop.body if part not in later and part.node in early]
    two = [part for part in loop.body if part in later or (isinstance(part, Load | Compute) and part.node in again)]
    return Halves(replace(loop, body=tuple(one)), replace(loop, body=tuple(two)), tuple(held))


@dataclass(frozen=True)
class _Walk:
    """What the walk over a block is told."""

    halves: Halves
    after: Loop
    """What is asked of a block that has been coded."""
    coded: Sequence[Store]
    at: Mapping[str, str]
    totals: Mapping[Accumulate, str]
    rooms: Mapping[int, str]
    """Where draws are, by the pair of arrays that share them."""
    held: Mapping[Node, str]


class BlockWalk(KeptInGroups):
    """Writes the walk over blocks of groups."""

    def _over_groups(
        self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str], grouped: Sequence[Array]
    ) -> None:
        """Walk block by block of groups."""
        line, coded = self.source.line, [store for store in loop.stores if store.array in grouped]
        rooms = {pair: self.fresh.fresh("rolled") for pair in sorted({store.draw // 2 for store in coded})}
        line(*(f"{room} = draw_room()" for room in rooms.values()))
        for array in grouped:
            own = {word: self.fresh.fresh(f"{array.name}_{word}") for word in (*ROOMS, "scale")}
            line(f"{own['scale']} = {self._point(units_of(array.name), 'uint8', '0')}")
            line(*(f"{own[word]} = {room}_room()" for word, room in ROOMS.items()))
            self.groups[array.name] = own
        self._make_waiting(loop)
        before, after = self._parted(loop)
        both = halves(before, coded, self.waiting)
        held = {
            store.node: self.groups[store.array.name]["kept"] for store in coded if store.array.format.name == "int8"
        }
        for node in both.held:
            if node not in held:
                held[node] = self.fresh.fresh("held")
                line(f"{held[node]} = block_room()")
        walk = _Walk(both, after, coded, at, totals, rooms, {node: held[node] for node in both.held})
        line(f"length = {self._of('length')}", f"units = (length + {GROUP - 1}) // {GROUP}")
        line("line, column = start // length * units, start % length", "begin = 0")
        with self.source.block("while begin < count:"):
            line(f"size = min({BLOCK}, length - column)")
            line(f"first_unit, lanes = line + column // {GROUP}, (size + {GROUP - 1}) // {GROUP}")
            for pair, room in rooms.items():
                with self.source.block("for i in range(size):"):
                    line(f"{room}[i] = draw(begins + begin, i, {self.keys[pair]})")
            with self.source.block(f"if lanes & (lanes - 1) == 0 and size % {LANES} == 0:"):
                self._block(walk, LANES)
            with self.source.block("else:"):
                self._block(walk)
            line("column, begin = column + size, begin + size")
            with self.source.block("if column == length:"):
                line("line, column = line + units, 0")
        self.groups = {}

    def _block(self, walk: _Walk, by: int = 0) -> None:
        """Compute the elements of a block, write what is not coded, find the units of its groups, then code them.

        Most blocks are walked over `by` 16 lanes: 8 groups are then 16, of which two are one.
        """
        known, line = dict(self.names), self.source.line
        self._open_groups()
        with self._turns(by):
            line("i = begin + place")
            self._body(walk.halves.first, walk.at, walk.totals)
            own = {room["kept"] for room in self.groups.values()}
            line(*(f"{room}[place] = {self.names[node]}" for node, room in walk.held.items() if room not in own))
            self._wait()
        self.names, self.drawn = known | {node: f"{room}[place]" for node, room in walk.held.items()}, {}
        if walk.halves.second.body:
            with self.source.block("for place in range(size):"):
                line("i = begin + place")
                self._body(walk.halves.second, walk.at, walk.totals)
        self.names, self.drawn = known, {}
        for store in walk.coded:
            own, form = self.groups[store.array.name], store.array.format.name
            line(f"close_groups_{form}({own['most']}, {own['inverse']}, {own['scale']}, first_unit, lanes)")
            with self._turns(by):
                bits = f"{('low', 'high')[store.draw % 2]}_bits({walk.rooms[store.draw // 2]}[place])"
                new = f"stochastic_{form}({own['kept']}[place], {own['inverse']}[lane], {bits})"
                line(f"{walk.at[store.array.name]}[begin + place] = {new}")
        if walk.after.body:
            self._open_groups()
            with self._turns(by):
                self._tell(walk.after, walk.at, walk.totals)

    @contextmanager
    def _turns(self, by: int) -> Generator[None]:
        """Open the loops over the elements of a block, which its groups take in turns."""
        turns, each, first = (
            (f"size // {by}", f"{by}", f"turn * {by}") if by else ("0, size, lanes", "min(lanes, size - turn)", "turn")
        )
        with self.source.block(f"for turn in range({turns}):"), self.source.block(f"for lane in range({each}):"):
            self.source.line(f"place = {first} + lane")
            yield
