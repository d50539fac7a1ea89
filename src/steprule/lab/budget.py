"""How long a run lasts."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """So many epochs or so many iterations, in batches of one size."""

    epochs: int | None = 30
    iterations: int | None = None
    batch_size: int = 32
    final_full_batch: bool = False

    def minibatches_per_epoch(self, size: int) -> int:
        """Return how many batches show each of `size` examples once."""
        return math.ceil(size / self.batch_size)

    def count(self, size: int, *, full_batch: bool) -> int:
        """Return the iterations of a run over `size` examples, the last full-batch one not counted."""
        if self.iterations is not None:
            return self.iterations
        return (self.epochs or 0) * (1 if full_batch else self.minibatches_per_epoch(size))
