"""How long a run lasts, and how its iterations are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A number of epochs or of iterations, in batches of one size.

    `accumulate` is how many micro-batches a batch is computed in; its gradient stays that of the whole batch.
    The network computes in `precision`. A run that takes longer than `timeout` seconds ends as failed.
    """

    epochs: int | None = 30
    iterations: int | None = None
    batch_size: int = 32
    final_full_batch: bool = False
    accumulate: int = 1
    precision: str = "float32"
    timeout: float | None = None

    def minibatches_per_epoch(self, size: int) -> int:
        """Return how many batches show each of `size` examples once."""
        return math.ceil(size / self.batch_size)

    def count(self, size: int, *, full_batch: bool) -> int:
        """Return the iterations of a run over `size` examples, the last full-batch one not counted."""
        if self.iterations is not None:
            return self.iterations
        return (self.epochs or 0) * (1 if full_batch else self.minibatches_per_epoch(size))

    def total(self, size: int, *, full_batch: bool) -> int:
        """Return all the iterations of a run over `size` examples; a schedule is spread over them."""
        return self.count(size, full_batch=full_batch) + self.final_full_batch
