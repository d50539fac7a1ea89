"""What a CPU kernel's stores leave in groups: known when a block is coded, and asked in one more walk over the block.

Numbers that are asked beside it, and that are computed before, wait on the stack: their codes are written by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..graph.node import Node
from ..plan.program import Accumulate, Compute, Keep, Load, Loop
from .render import Dialect


class KeptInGroups(Dialect):
    """What a CPU dialect writes where gauges ask what is kept of slots in 8 bits; `waiting` are the tables for it."""

    waiting: dict[Node, str]

    def _parted(self, loop: Loop) -> tuple[Loop, Loop]:
        """Part what is done to an element before its block is coded from what is done after it."""
        before, after, late = [], [], set[Node]()
        for part in loop.body:
            needed = part.node.inputs if isinstance(part, Compute | Accumulate) else ()
            waits = part.store.array.format.grouped if isinstance(part, Keep) else bool(late & {*needed})
            late |= {part.node} if waits else set()
            (after if waits else before).append(part)
        return replace(loop, body=tuple(before)), replace(loop, body=tuple(after))

    def _make_waiting(self, loop: Loop) -> None:
        """Make a table for each number that waits."""
        before, after = self._parted(loop)
        made = {part.node for part in before.body if isinstance(part, Load | Compute)}
        asked = [node for part in after.body if not isinstance(part, Keep) for node in part.node.inputs if node in made]
        self.waiting = {node: self.fresh.fresh("waiting") for node in asked}
        self.source.line(*(f"{room} = block_room()" for room in self.waiting.values()))

    def _open_groups(self) -> None:
        """Read the units of a block's groups."""
        opened = "open_groups({unit}, {most}, {scale}, first_unit, lanes)"
        self.source.line(*(opened.format(**own) for own in self.groups.values()))

    def _wait(self) -> None:
        """Let the numbers of an element wait."""
        self.source.line(*(f"{room}[place] = {self.names[node]}" for node, room in self.waiting.items()))

    def _tell(self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str]) -> None:
        """Ask of an element of a block, whose codes and units are written."""
        known, truth = self.names, {node for node in self.waiting if node.truth}
        waited = {
            node: f"({room}[place] != 0)" if node in truth else f"{room}[place]" for node, room in self.waiting.items()
        }
        self.names = known | waited
        self.source.line("i = begin + place")
        keeps = [part for part in loop.body if isinstance(part, Keep)]
        for part in keeps:
            name, form = part.store.array.name, part.store.array.format
            again = self.loads[form.kind].format(at=at[name], form=form.name, **self.groups[name])
            self._assign(part.node, "kept", again)
        self._body(replace(loop, body=tuple(part for part in loop.body if part not in keeps)), at, totals)
        self.names = known
