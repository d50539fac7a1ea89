"""The former values of a param group, so that a step knows at little cost whether it must read it again.

Only what cannot change while it stays the same object is compared by identity. A list, an array, a tensor, an object
of somebody's own, or a tuple with one of these in it, is read at every step. So that this costs nothing where nobody
looks (names of parameters, what trainers keep in a group), the keys that are read are known: a group is read once
through `Reading`, which remembers what it was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import is_, itemgetter
from typing import Any

import torch

from ..errors import HyperparameterError
from ..graph.graph import LOSS, Graph
from ..graph.node import hyper
from ..rule import Chain, Rule
from .compiled import Kernels

_FIXED = frozenset({float, int, bool, str, type(None), Rule, Chain})


def _fixed(value: object) -> bool:
    """Whether a value stays what it is while it is the same object."""
    return type(value) in _FIXED or (type(value) is tuple and all(map(_fixed, value)))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


class Reading(dict[str, Any]):
    """A param group that remembers the keys that are read from it."""

    def __init__(self, group: dict[str, Any]) -> None:
        super().__init__(group)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, like any dict."""
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self.asked.update(super().keys())
        return super().__iter__()


class Settings:
    """The entries of one param group that its kernels are chosen by, or that its hyperparameters are read from."""

    def __init__(self, group: dict[str, Any], choose: Callable[[dict[str, Any]], Kernels]) -> None:
        reading = Reading(group)
        self.kernels = choose(reading)
        flags = set(reading.asked)
        for read in self.kernels.readers:
            read(reading)
        keys = sorted(flags & group.keys()), sorted((reading.asked - flags) & group.keys())
        self._flags = len(keys[0])
        self._absent = tuple(reading.asked - group.keys())
        self._get = itemgetter(*keys[0], *keys[1], "params", "params")  # at least two, so that the answer is a tuple
        self._remember(group)

    def _remember(self, group: dict[str, Any]) -> None:
        self._count = len(group)
        self._values = self._get(group)
        self._fixed = all(map(_fixed, self._values[:-2]))

    def still_hold(self, group: dict[str, Any]) -> bool:
        """Whether every entry is the very object it was, and no object of a kind that changes."""
        if not self._fixed or len(group) != self._count:
            return False
        for key in self._absent:
            if key in group:
                return False
        try:
            return all(map(is_, self._get(group), self._values))
        except KeyError:
            return False

    def only_numbers_changed(self, group: dict[str, Any]) -> bool:
        """Whether what chooses kernels is as it was; if so, what stands there now is remembered."""
        try:
            flags = self._get(group)[: self._flags]
        except KeyError:
            return False
        unread = not any(key in group for key in self._absent)
        if not (unread and all(map(_fixed, flags)) and all(map(is_, flags, self._values))):
            return False
        self._remember(group)
        return True


@dataclass(frozen=True, eq=False)
class OnDevice:
    """A hyperparameter that need not leave the device it is on; it may be another number whenever it is read."""

    number: torch.Tensor


def told(loss: Any, graph: Graph) -> Any:
    """Return the loss that a step was given, as groups have their numbers, or raise `HyperparameterError`."""
    number = loss if isinstance(loss, torch.Tensor) and loss.numel() == 1 else plain(loss)
    if isinstance(number, torch.Tensor) and not number.is_complex():
        return OnDevice(number.detach()) if number.device.type != "cpu" else float(number.detach())
    if type(number) in (float, int):
        return float(number)
    line = next((graph.origins[n] for n in graph.nodes if n in graph.origins and hyper(LOSS.name) in n.inputs), "")
    raise HyperparameterError(
        f"`{graph.name}` needs the loss, and step() was given {'none' if loss is None else f'a {type(loss).__name__}'}",
        where=line,
        fix="call step(loss=loss), or step(closure) with a closure that returns it; scaler.step(optimizer, loss=loss)",
    )


def plain(value: Any) -> Any:
    """Return a hyperparameter as a plain value that can be compared; one that is no number is left to be refused."""
    if isinstance(value, OnDevice):
        value = value.number
    if value is None or isinstance(value, str) or type(value) in (float, int, bool):
        return value
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return repr(value)
