"""Tensors whose memory is fenced: unreadable pages on both sides, canaries in every byte that is not theirs."""

from __future__ import annotations

import ctypes
import mmap
import random
from collections.abc import Sequence

import numpy as np
import torch

PAGE = mmap.PAGESIZE
CANARY = 0xA5
_PROT_NONE = 0

LAYOUTS = ("contiguous", "transposed", "channels last", "every second", "gaps between rows", "misaligned")


def _strides(shape: Sequence[int], layout: str) -> list[int]:
    """Return element strides of a layout; what does not fit the shape is contiguous."""
    order = list(range(len(shape)))
    if layout == "transposed":
        order.reverse()
    if layout == "channels last" and len(shape) == 4:
        order = [0, 2, 3, 1]
    step = 2 if layout == "every second" else 1
    strides = [0] * len(shape)
    for place, dim in enumerate(reversed(order)):
        strides[dim] = step
        step *= max(1, shape[dim])
        if place == 0 and layout == "gaps between rows":
            step += 3
    return strides


class Fenced:
    """One tensor in memory of its own; `broken` tells whether a byte beside its elements has changed."""

    def __init__(self, values: torch.Tensor, layout: str, dice: random.Random) -> None:
        shape, item = tuple(values.shape), values.element_size()
        strides = _strides(shape, layout)
        extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        needed = extent * item if values.numel() else 0
        room = max(1, -(-(needed + item) // PAGE)) * PAGE
        self._memory = mmap.mmap(-1, room + 2 * PAGE)
        inside = (ctypes.c_ubyte * len(self._memory)).from_buffer(self._memory)
        self._address = ctypes.addressof(inside)
        for fence in (self._address, self._address + PAGE + room):
            if _libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(PAGE), _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect failed")
        # The first element right after the lower fence, or the last right before the upper one.
        begin = 0 if dice.random() < 0.5 else room - needed
        if layout == "misaligned":
            begin += 1 if begin == 0 else -1
        self._bytes = np.frombuffer(inside, dtype=np.uint8, count=room, offset=PAGE)
        self._bytes[:] = CANARY
        owned = np.zeros(room, dtype=bool)
        if values.numel():
            flat = torch.frombuffer(inside, dtype=values.dtype, count=extent, offset=PAGE + begin)
            self.tensor = flat.as_strided(shape, strides).copy_(values)
            cells = np.lib.stride_tricks.as_strided(
                owned[begin:], (*shape, item), (*(stride * item for stride in strides), 1)
            )
            cells[...] = True
        else:
            self.tensor = torch.empty(shape, dtype=values.dtype)
        self._beside = ~owned

    def broken(self) -> bool:
        """Whether any byte that is not the tensor's has changed."""
        return bool((self._bytes[self._beside] != CANARY).any())


_libc = ctypes.CDLL(None, use_errno=True)
