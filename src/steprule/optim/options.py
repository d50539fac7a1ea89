"""What an optimiser takes besides hyperparameters: one list, from which everything about options comes.

The fields of `Options` are what copies and pickles keep and what can be read and set on an optimiser. The names that
rules may not use stand in `rule/signature.py`, which knows nothing of this room; a test holds the two lists equal.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from ..backends import BACKENDS
from ..errors import BackendError, HyperparameterError
from ..rule import Formula
from ..zoo.transforms import clip_global_norm

NONFINITE = ("propagate", "skip", "raise")


@dataclass(frozen=True)
class Options:
    """The options of one optimiser, checked; `steprule.Optimizer` says what each means."""

    clip: Formula | float | None = None
    nonfinite: str = "propagate"
    backend: str | None = None
    compensated: bool = False
    capturable: bool = False

    def __post_init__(self) -> None:
        if self.clip is not None and not isinstance(self.clip, Formula):
            object.__setattr__(self, "clip", clip_global_norm(max_norm=self.clip))
        if self.backend is not None and self.backend not in BACKENDS:
            raise BackendError(
                f"there is no backend {self.backend!r}", fix=f"use one of {', '.join(BACKENDS)}, or None"
            )
        if self.nonfinite not in NONFINITE:
            raise HyperparameterError(
                f"nonfinite is {self.nonfinite!r}", fix=f"use one of {', '.join(map(repr, NONFINITE))}"
            )

    @property
    def guarded(self) -> bool:
        """Whether a step looks for NaN and infinity before it writes."""
        return self.nonfinite != "propagate"

    def kept(self) -> dict[str, Any]:
        """Return what copies and pickles keep."""
        return {name: getattr(self, name) for name in NAMES}


NAMES = tuple(field.name for field in fields(Options))
_FIXED = ("compensated", "capturable")
"""Options that decide what the state is and where it lies."""


class Option:
    """An option as an attribute of an optimiser: what is set there holds from the next step on, or is refused."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, optimizer: Any, _: type | None = None) -> Any:
        return self if optimizer is None else getattr(optimizer._options, self._name)  # noqa: SLF001

    def __set__(self, optimizer: Any, value: Any) -> None:
        before: Options = optimizer._options  # noqa: SLF001
        new = replace(before, **{self._name: value})
        if new == before:
            return
        if self._name in _FIXED:
            raise HyperparameterError(
                f"{self._name} is decided when an optimiser is made",
                where=f"  {type(optimizer).__name__}, made with {self._name}={getattr(before, self._name)}",
                fix=f"make another one with {self._name}={value!r}, and give it this one's state with load_state_dict",
            )
        optimizer._configure(new)  # noqa: SLF001
