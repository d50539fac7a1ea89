"""The options of an optimiser: one list, from which everything about options comes.

Copies and pickles keep the fields of `Options`, and an optimiser has each as an attribute. The names that
rules may not use stand in `rule/signature.py`, which knows nothing of this room; a test holds the two lists equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..backends import BACKENDS
from ..errors import BackendError, HyperparameterError
from ..plan.storage import ROUNDINGS, STATES, State
from ..rule import Formula
from ..zoo.transforms import clip_global_norm

NONFINITE = ("propagate", "skip", "raise")
_NOT_OFFERED = {"lab": False}
"""The metadata of fields that the lab leaves out of `--set`. `choices` in that of others lists their values."""


@dataclass(frozen=True)
class Options:
    """The options of one optimiser, checked; `steprule.Optimizer` says what each means."""

    clip: Formula | float | None = field(default=None, metadata=_NOT_OFFERED)
    nonfinite: str = field(default="propagate", metadata={"choices": NONFINITE})
    backend: str | None = None
    compensated: bool = False
    rounding: str = field(default="nearest", metadata={"choices": ROUNDINGS})
    state: State = field(default=None, metadata={"choices": (None, *STATES)})
    seed: int = 0
    watch: bool | Sequence[str] | None = field(default=None, metadata=_NOT_OFFERED)
    capturable: bool = field(default=False, metadata=_NOT_OFFERED)

    def __post_init__(self) -> None:
        if self.clip is not None and not isinstance(self.clip, Formula):
            object.__setattr__(self, "clip", clip_global_norm(max_norm=self.clip))
        if isinstance(self.clip, Formula) and any(part.evaluate_at is not None for part in self.clip.parts):
            raise HyperparameterError(
                f"clip is {self.clip!r}, which says where the gradient is taken",
                fix="give it with the rule: sr.Optimizer(model.parameters(), sr.sam(sr.board.adam))",
            )
        if self.backend is not None and self.backend not in BACKENDS:
            raise BackendError(
                f"there is no backend {self.backend!r}", fix=f"use one of {', '.join(BACKENDS)}, or None"
            )
        if isinstance(self.state, Mapping):
            object.__setattr__(self, "state", dict(self.state))
            for name, form in self.state.items():
                _one_of(f"the state of {name!r}", form, STATES)
        for option in fields(self):
            if "choices" in option.metadata and not isinstance(getattr(self, option.name), dict):
                _one_of(option.name, getattr(self, option.name), option.metadata["choices"])
        if self.watch is not None and not isinstance(self.watch, bool):
            object.__setattr__(self, "watch", _listed(self.watch))
        if type(self.seed) is not int or not 0 <= self.seed < 2**64:
            raise HyperparameterError(f"seed is {self.seed!r}", fix="give a whole number from 0, below 2**64")
        if self.compensated and self.rounding in ("stochastic", "compensated8"):
            raise HyperparameterError(
                f'compensated=True and rounding="{self.rounding}" contradict each other',
                fix='leave compensated out, or pass rounding="compensated"',
            )
        both = self.compensated or self.rounding == "compensated"
        object.__setattr__(self, "compensated", both)
        object.__setattr__(self, "rounding", "compensated" if both else self.rounding)

    @property
    def guarded(self) -> bool:
        """Whether a step looks for NaN and infinity before it writes."""
        return self.nonfinite != "propagate"

    def kept(self) -> dict[str, Any]:
        """Return the values that copies and pickles keep."""
        return {_KEYS.get(name, name): getattr(self, name) for name in NAMES}

    @staticmethod
    def taken(state: dict[str, Any]) -> Options:
        """Take the options out of the values that a copy or pickle kept. An older one has fewer."""
        return Options(**{name: state.pop(key) for name in NAMES if (key := _KEYS.get(name, name)) in state})


def _one_of(name: str, value: object, words: Sequence[str | None]) -> None:
    if not isinstance(value, str | None) or value not in words:
        raise HyperparameterError(f"{name} is {value!r}", fix=f"use one of {', '.join(map(repr, words))}")


def _listed(names: object) -> tuple[str, ...]:
    """Return a list of names as a tuple, which compares and copies by value."""
    given = tuple(names) if isinstance(names, Iterable) and not isinstance(names, str | bytes) else None  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if given is None or not all(isinstance(name, str) for name in given):  # pyright: ignore[reportUnknownVariableType]
        raise HyperparameterError(
            f"watch is {names!r}", fix='use True, False, or a list of names: watch=["update_norm"]'
        )
    return given  # pyright: ignore[reportUnknownVariableType]


NAMES = tuple(field.name for field in fields(Options))
_KEYS: Mapping[str, str] = {"state": "state_dtype"}
"""The attributes whose names differ from their options', because torch's optimisers have others of that name."""
_FIXED = ("compensated", "rounding", "state", "seed", "capturable")
"""Options that decide the kind, the place or the rounding of the state."""


class Option:
    """An option as an attribute of an optimiser. A new value holds from the next step on, or is refused."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    def __set_name__(self, _: type, name: str) -> None:
        self._name = self._name or name

    def __get__(self, optimizer: Any, _: type | None = None) -> Any:
        return self if optimizer is None else getattr(optimizer._options, self._name)  # noqa: SLF001

    def __set__(self, optimizer: Any, value: Any) -> None:
        before: Options = optimizer._options  # noqa: SLF001
        if self._name in _FIXED:
            asked, had = getattr(Options(**{self._name: value}), self._name), getattr(before, self._name)
            if asked == had:
                return
            raise HyperparameterError(
                f"{self._name} is decided when an optimiser is made",
                where=f"  {type(optimizer).__name__}, made with {self._name}={had!r}",
                fix=f"make another one with {self._name}={value!r}, and give it this one's state with load_state_dict",
            )
        new = replace(before, **{self._name: value})
        if new != before:
            optimizer._configure(new)  # noqa: SLF001
