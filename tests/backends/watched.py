"""What kernels do to memory, seen through Triton's interpreter, which runs one program after another and forgives much.

On a GPU a read beside a table may end the process, two programs that write one place write it in any order, and a wide
load of an address that is no multiple of 16 is refused. Here each of these is an error.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch


class Watch:
    """The places that kernels may touch, and those that they have: read and written, by launch and program."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        stretches = sorted({(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors if t.numel()})
        self.begins, self.ends = np.array(stretches, dtype=np.uint64).T
        self.program = 0
        self.written: list[np.ndarray] = []
        self._reads: list[tuple[int, np.ndarray]] = []
        self._writes: list[tuple[int, np.ndarray]] = []

    def touch(self, pointers: Any, mask: Any, size: int, *, write: bool) -> None:
        """Note an access, which must be of what a kernel was given."""
        places = np.broadcast_to(pointers, np.broadcast_shapes(np.shape(pointers), np.shape(mask)))
        places = places[np.broadcast_to(mask, places.shape)].astype(np.uint64)
        own = np.searchsorted(self.begins, places, side="right")
        inside = (own > 0) & (places + np.uint64(size) <= self.ends[own - 1])
        assert inside.all(), f"a kernel {'writes' if write else 'reads'} beside what it was given"
        (self._writes if write else self._reads).append((self.program, places))

    def launched(self) -> None:
        """End a launch: what one of its programs has written, no other may have touched."""
        by: dict[int, int] = {}
        for program, places in self._writes:
            self.written.append(places)
            others = [by.setdefault(place, program) != program for place in places.tolist()]
            assert not any(others), "two programs of a launch write one place"
        for program, places in self._reads:
            others = [by.get(place, program) != program for place in places.tolist()]
            assert not any(others), "a program of a launch reads what another of them writes"
        self._reads, self._writes = [], []

    def wrote(self, tensor: torch.Tensor) -> bool:
        """Whether a kernel has written any of a tensor."""
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
        return any(bool(((places >= first) & (places < last)).any()) for places in self.written)


@contextmanager
def watched(tensors: Iterable[torch.Tensor]) -> Generator[Watch]:
    """Watch every access of kernels in this block; only these tensors are theirs to touch."""
    from triton.language.semantic import TritonSemantic
    from triton.runtime.interpreter import interpreter_builder as builder

    watch = Watch(tensors)
    load, store, begin, run, promised = (builder.create_masked_load, builder.create_masked_store, builder.set_grid_dim,
                                         builder.set_grid_idx, TritonSemantic.multiple_of)  # fmt: skip

    def a_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        watch.touch(pointers.data, mask.data, pointers.get_element_ty().primitive_bitwidth // 8, write=False)
        return load(pointers, mask, *rest)

    def a_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watch.touch(pointers.data, mask.data, pointers.get_element_ty().primitive_bitwidth // 8, write=True)
        return store(pointers, value, mask, *rest)

    def a_launch(*sizes: int) -> None:
        watch.launched()
        begin(*sizes)

    def a_program(x: int, *rest: int) -> None:
        watch.program = x
        run(x, *rest)

    def a_promise(self: Any, block: Any, values: Any) -> Any:
        assert not (block.handle.data % np.asarray(values).astype(block.handle.data.dtype)).any(), "no multiple at all"
        return promised(self, block, values)

    with pytest.MonkeyPatch.context() as patch:
        for name, new in (("create_masked_load", a_load), ("create_masked_store", a_store),
                          ("set_grid_dim", a_launch), ("set_grid_idx", a_program)):  # fmt: skip
            patch.setattr(builder, name, new)
        patch.setattr(TritonSemantic, "multiple_of", a_promise)
        yield watch
        watch.launched()
