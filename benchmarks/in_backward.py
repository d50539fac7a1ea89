"""Steps in the backward pass: bytes a parameter with the gradients at their peak, and the time that a gradient costs.

    python benchmarks/in_backward.py                                 60 small tensors
    python benchmarks/in_backward.py --tensors 12 --elements 1048576 a few large ones

Times are seconds of the processor in one thread, what a backward pass takes alone taken off, a tensor; medians of arms
in turns. Bytes are those of storages: of parameters, state, and gradients that are alive together.
"""

from __future__ import annotations

import argparse
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch

import steprule as sr

SEVEN: dict[str, Any] = {"state": "8bit", "rounding": "compensated8"}


class Arm:
    """Parameters, and a way to step them."""

    def __init__(
        self, count: int, elements: int, make: Callable[..., Any] | None, way: str, options: Any = None
    ) -> None:
        dtype = torch.bfloat16 if options is SEVEN else torch.float32
        torch.manual_seed(0)
        rows = max(1, elements // 64)
        self.parameters = [torch.nn.Parameter(torch.randn(rows, 64).to(dtype)) for _ in range(count)]
        self.alive: list[weakref.ref[torch.Tensor]] = []
        self.peak, self.looking = 0, False
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._look)
        one_each = way == "one a parameter"
        sets = [[parameter] for parameter in self.parameters] if one_each else [self.parameters]
        self.optimizers = [make(own, lr=1e-3, **(options or {})) for own in sets] if make else []
        if way == "step_in_backward()":
            self.optimizers[0].step_in_backward()
        elif one_each:
            for parameter, optimizer in zip(self.parameters, self.optimizers, strict=True):
                parameter.register_post_accumulate_grad_hook(self._stepping(optimizer))
        self.last = [] if one_each else self.optimizers

    def _look(self, parameter: torch.Tensor) -> None:
        if self.looking and parameter.grad is not None:
            self.alive.append(weakref.ref(parameter.grad))
            self.peak = max(self.peak, sum(g.nbytes for ref in self.alive if (g := ref()) is not None))

    @staticmethod
    def _stepping(optimizer: Any) -> Callable[[torch.Tensor], None]:
        def hook(_: torch.Tensor) -> None:
            optimizer.step()
            optimizer.zero_grad()

        return hook

    def run(self) -> None:
        """Take a step; the gradient of a parameter is made from it alone."""
        sum(parameter.sum() for parameter in self.parameters).backward()
        for optimizer in self.last:
            optimizer.step()
            optimizer.zero_grad()
        if not self.optimizers:
            for parameter in self.parameters:
                parameter.grad = None

    def bytes(self) -> float:
        """Step once more, and return bytes a parameter, gradients at their peak included."""

        self.looking = True
        self.run()
        self.looking = False
        states = [value for own in self.optimizers for state in own.state.values() for value in state.values()]
        held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                for tensor in (*self.parameters, *states) if tensor.dim()}  # fmt: skip
        return (sum(held.values()) + self.peak) / sum(parameter.numel() for parameter in self.parameters)


def fused(params: Any, **options: Any) -> torch.optim.Optimizer:
    """Make torch's fused AdamW."""
    return torch.optim.AdamW(params, fused=True, **options)


ARMS: dict[str, tuple[Callable[..., Any] | None, str, Any]] = {
    "backward alone": (None, "", None),
    "torch's fused AdamW, step()": (fused, "", None),
    "torch's fused AdamW, one a parameter": (fused, "one a parameter", None),
    "ours, step()": (sr.optim.AdamW, "", None),
    "ours, one a parameter": (sr.optim.AdamW, "one a parameter", None),
    "ours, step_in_backward()": (sr.optim.AdamW, "step_in_backward()", None),
    "ours, seven bytes, step()": (sr.optim.AdamW, "", SEVEN),
    "ours, seven bytes, step_in_backward()": (sr.optim.AdamW, "step_in_backward()", SEVEN),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=60)
    parser.add_argument("--elements", type=int, default=4096, help="of each tensor")
    parser.add_argument("--turns", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    arms = {name: Arm(given.tensors, given.elements, *arm) for name, arm in ARMS.items()}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(given.turns + 3):
        for name, arm in arms.items():
            start = time.process_time()
            arm.run()
            if turn >= 3:
                times[name].append(time.process_time() - start)
    alone = statistics.median(times["backward alone"])
    print(f"{given.tensors} tensors of {given.elements} elements")
    print(f"{'':40}{'bytes a parameter':>20}{'µs a tensor':>14}")
    for name, arm in arms.items():
        taken = (statistics.median(times[name]) - alone) / given.tensors * 1e6
        print(f"{name:40}{arm.bytes():20.2f}{taken:14.1f}")


if __name__ == "__main__":
    main()
