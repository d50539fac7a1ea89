"""Memory that two tensors of a step share: every pair of which one is written is looked at when tensors are bound.

A step is as if all were read before anything is written. Kernels and torch's operations keep that promise element by
element, so a gradient may be exactly its own parameter, or a slot of it: an element is read before it is written. Any
other gradient that lies in memory that is written is copied first, at every step. Two tensors that are both written
may share nothing: what came last would be chance.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from operator import attrgetter

import numpy as np
import torch

from ..errors import ParameterError
from .tensors import Entry, extent


@dataclass(frozen=True, slots=True)
class _Claim:
    """A tensor's stretch of memory, whose it is, and which slot; the gradient is no slot, and is only read."""

    start: int
    end: int
    tensor: torch.Tensor
    entry: int
    slot: str
    written: bool


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Return where a tensor's memory begins and ends; nowhere, if it has no address of its own."""
    if tensor.device.type not in {"cpu", "cuda"} or not tensor.numel():
        return 0, 0
    length = tensor.nbytes if type(tensor) is torch.Tensor and tensor.is_contiguous() else extent(tensor)
    return (tensor.data_ptr(), tensor.data_ptr() + length) if length else (0, 0)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same elements in the same order."""
    steps = zip(a.stride(), b.stride(), a.shape, strict=True) if a.shape == b.shape else ()
    walk = a.shape == b.shape and all(x == y for x, y, size in steps if size > 1)
    return walk and a.dtype == b.dtype and a.data_ptr() == b.data_ptr() and a.is_neg() == b.is_neg()


class Written:
    """The stretches of memory that a step writes, in order."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.bounds: list[int] = []
        """Where each stretch begins and ends, one after the other."""
        for start, end in sorted(filter(any, map(_span, tensors))):
            if self.bounds and start <= self.bounds[-1]:
                self.bounds[-1] = max(self.bounds[-1], end)
            else:
                self.bounds += [start, end]

    def touches(self, start: int, length: int) -> bool:
        """Whether a stretch of memory, or a part of it, may be written."""
        place = bisect_right(self.bounds, start)
        inside = place % 2 == 1
        return length > 0 and (inside or (place < len(self.bounds) and self.bounds[place] < start + length))


def set_apart(entries: Sequence[Entry], slots: Sequence[dict[str, torch.Tensor]]) -> list[Entry]:
    """Return the entries, with copies of gradients that lie where something is written; refuse what shares memory.

    A parameter without a gradient is neither read nor written.
    """
    claims: list[_Claim] = []
    for index, (entry, own) in enumerate(zip(entries, slots, strict=True)):
        if entry.present:
            written = {"": entry.parameter, **own}
            claims += [_Claim(*_span(tensor), tensor, index, name, written=True) for name, tensor in written.items()]
            if not any(_same(entry.gradient, tensor) for tensor in written.values()):
                claims.append(_Claim(*_span(entry.gradient), entry.gradient, index, "", written=False))
    claims = sorted((claim for claim in claims if claim.end), key=attrgetter("start"))
    copied: set[int] = set()
    crowd: list[_Claim] = []
    reach = 0
    for claim in claims:
        if claim.start >= reach:
            copied |= _shared(entries, crowd, reach)
            crowd = []
        crowd.append(claim)
        reach = max(reach, claim.end)
    copied |= _shared(entries, crowd, reach)
    return [
        replace(entry, gradient=entry.gradient.detach().clone(), copied=True) if index in copied else entry
        for index, entry in enumerate(entries)
    ]


def _shared(entries: Sequence[Entry], crowd: list[_Claim], end: int) -> set[int]:
    """Mark the written memory of a crowd. Return the entries whose gradients lie there, or refuse."""
    if len(crowd) < 2 or not any(claim.written for claim in crowd):
        return set()
    first = crowd[0].start
    unit = gcd(*(claim.tensor.element_size() for claim in crowd), *(claim.start - first for claim in crowd))
    owner = np.zeros((end - first) // unit, dtype=np.int32)
    found: set[int] = set()
    crowd = sorted(crowd, key=attrgetter("written"), reverse=True)
    for index, claim in enumerate(crowd):
        size = claim.tensor.element_size()
        strides = (*(stride * size // unit * owner.itemsize for stride in claim.tensor.stride()), owner.itemsize)
        begin = owner[(claim.start - first) // unit :]
        cells = np.lib.stride_tricks.as_strided(begin, (*claim.tensor.shape, size // unit), strides)
        if claim.written and cells.any():
            raise _refusal(entries, crowd[int(cells.max()) - 1], claim)
        if claim.written:
            cells[...] = index + 1
        elif cells.any():
            found.add(claim.entry)
    return found


def _refusal(entries: Sequence[Entry], a: _Claim, b: _Claim) -> ParameterError:
    """Word the fault of two written tensors that share memory."""
    a, b = sorted((a, b), key=lambda claim: (claim.slot != "", claim.entry))
    names = [f"state {claim.slot!r} of {entries[claim.entry].label}" if claim.slot else entries[claim.entry].label
             for claim in (a, b)]  # fmt: skip
    where = "\n".join(
        f"  {name}: shape {tuple(claim.tensor.shape)}, bytes {claim.start - a.start} to {claim.end - a.start}"
        for name, claim in zip(names, (a, b), strict=True)
    )
    fix = "tie weights by using one Parameter in both places, and pass it once"
    if b.slot:
        held = f"optimizer.state[p][{b.slot!r}]"
        fix = f"{held} = {held}.clone(), where p is {entries[b.entry].label}"
    return ParameterError(f"{names[0]} and {names[1]} share memory", where=where, fix=fix)
