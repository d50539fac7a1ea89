"""The types in which parameters are kept, and what each does to a comparison: sizes, starts, bounds, tolerances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from steprule.bench.rules import BOUND


@dataclass(frozen=True)
class Precision:
    """One type of parameters and gradients.

    `start` shrinks the first parameters: their rounding must not hide an error in the update. An arm is refused when
    an element is off by more than `tolerance` of the farthest move within its tensor; in 16 bits also when all of them
    are by more than a fifth of that in the mean, so that a narrow type hides no wrong rate.
    """

    name: str
    dtype: torch.dtype
    start: float = 1.0
    tolerance: float = 1e-5

    @property
    def bytes(self) -> int:
        """The bytes of an element."""
        return self.dtype.itemsize

    def bound(self, parameters: Iterable[torch.Tensor]) -> float:
        """Return the greatest norm: 1, or for 16 bits half of what normal gradients have, whose squares they hold."""
        return BOUND if self.bytes > 2 else 0.5 * sum(parameter.numel() for parameter in parameters) ** 0.5


FLOAT32 = Precision("float32", torch.float32)
BFLOAT16 = Precision("bfloat16", torch.bfloat16, start=1e-2, tolerance=5e-2)
FLOAT16 = Precision("float16", torch.float16, start=1e-2, tolerance=1e-2)
