"""Norms taken during backward: each gradient is squared and summed when autograd has just made it.

A hook runs after a gradient has been accumulated into `p.grad`, so what it measures is the whole gradient so far:
after several backward passes the last measure counts, and a tied parameter has one gradient as it has one hook. A
measure is used only while it is true: for the same tensor, at the same version, and if the chunk of it that weighs
most still weighs the same. The version shows what torch's operations have changed since; the chunk shows what writes
past them and scales everything, as GradScaler does. Any doubt has the gradient measured again in the step.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..backends.numba_cpu import DTYPES, CpuKernel, FirstPass
from ..errors import ParameterError
from ..plan.schedule import schedule
from ..rule import chain
from ..zoo.board import sgd
from ..zoo.transforms import clip_global_norm
from .tensors import dense, present

WATCHED_FROM = 524_288
"""Elements from which a gradient is measured by a hook. Below, calling the hook costs more than the read it saves: up
to 1.8 times a training step on a 2-core EPYC, where both are even from here on (`benchmarks/hooks.py`)."""

_PLAN = schedule(chain(clip_global_norm, sgd).graph)
"""A plan whose first pass reads the gradient and ends in its norm."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one hook has measured: the sum of squares, and the part of the chunk that weighs most."""

    gradient: weakref.ref[torch.Tensor]  # a strong one would keep memory that zero_grad is to free
    version: int
    square: float
    chunk: int
    part: float


class Watch:
    """Follows parameters, and knows the norm of their gradients."""

    def __init__(self) -> None:
        self._handles: dict[torch.Tensor, Any] = {}
        self._seen: dict[int, Seen] = {}
        self._passes: dict[tuple[torch.dtype, int], FirstPass] = {}
        self._kernels: dict[torch.dtype, CpuKernel] = {}
        self._busy = threading.Lock()
        self.measured = 0
        """How many gradients a step had to measure itself."""
        weakref.finalize(self, _remove_all, self._handles)

    def follow(self, parameters: Sequence[torch.Tensor]) -> None:
        """Hook onto the large ones of these parameters, and let go of all others."""
        parameters = [parameter for parameter in parameters if parameter.numel() >= WATCHED_FROM]
        wanted = set(parameters)
        for gone in [parameter for parameter in self._handles if parameter not in wanted]:
            self._handles.pop(gone).remove()
            self._seen.pop(id(gone), None)
        hook = partial(_hook, weakref.ref(self))
        for parameter in parameters:
            if parameter not in self._handles and parameter.is_leaf and parameter.requires_grad:
                self._handles[parameter] = parameter.register_post_accumulate_grad_hook(hook)

    def see(self, parameter: torch.Tensor) -> None:
        """Measure a gradient that has just been made."""
        gradient = parameter.grad
        self._seen.pop(id(parameter), None)
        if gradient is not None and _sweepable(gradient):
            with self._busy:
                measure = self._pass(gradient).sum(gradient)
            self._seen[id(parameter)] = Seen(weakref.ref(gradient), gradient._version, *measure)  # noqa: SLF001

    def sum_of_squares(self, parameters: Sequence[torch.Tensor]) -> float:
        """Return the sum of squares of all gradients."""
        _refuse_several_processes()
        total = 0.0
        with self._busy:
            for parameter in parameters:
                gradient = parameter.grad
                if gradient is not None:
                    seen = self._seen.get(id(parameter))
                    total += seen.square if seen is not None and self._holds(seen, gradient) else self._square(gradient)
        return total

    def _holds(self, seen: Seen, gradient: torch.Tensor) -> bool:
        """Whether this is the gradient that was measured, unchanged."""
        same = seen.gradient() is gradient and seen.version == gradient._version  # noqa: SLF001
        return same and _sweepable(gradient) and self._pass(gradient).part(gradient, seen.chunk) == seen.part

    def _square(self, gradient: torch.Tensor) -> float:
        self.measured += 1
        if not gradient.numel():
            return 0.0
        if _sweepable(gradient):
            return self._pass(gradient).sum(gradient)[0]
        wide = gradient.detach().to(torch.float32 if gradient.device.type == "mps" else torch.float64)
        return float((wide * wide).sum())

    def _pass(self, gradient: torch.Tensor) -> FirstPass:
        """Return what sums gradients of this dtype and size, in the order in which they lie in memory."""
        key = (gradient.dtype, gradient.numel())
        if key not in self._passes:
            kernel = self._kernels.setdefault(gradient.dtype, CpuKernel(_PLAN, gradient.dtype))
            self._passes[key] = FirstPass(kernel, gradient.numel())
        return self._passes[key]


def _sweepable(gradient: torch.Tensor) -> bool:
    """Whether a kernel can walk over a gradient's memory."""
    plain = type(gradient) is torch.Tensor and gradient.is_cpu and gradient.dtype in DTYPES
    if not (plain and gradient.layout is torch.strided and gradient.numel() and present(gradient)):
        return False
    if not (gradient.is_contiguous() or dense(gradient)):
        return False
    address = gradient.data_ptr()
    return bool(address) and address % gradient.element_size() == 0


def _hook(watch: weakref.ref[Watch], parameter: torch.Tensor) -> None:
    follower = watch()
    if follower is not None:
        follower.see(parameter)


def _remove_all(handles: dict[torch.Tensor, Any]) -> None:
    for handle in handles.values():
        handle.remove()


def _refuse_several_processes() -> None:
    distributed: Any = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise ParameterError(
            'a norm taken during="backward" is of gradients that other processes have yet to be averaged with',
            fix='use clip_global_norm(max_norm=..., during="step")',
        )
