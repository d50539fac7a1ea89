"""The sizes of GPU kernels, and what Triton compiles them with."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import BackendError
from ..plan import groups

WARPS, REGISTERS = 32, 65_536
"""As many as one program may have, of 32 threads each; and those of a multiprocessor."""
LONGEST = 1 << 20
"""Elements that Triton allows in a block."""
WIDEST, TALLER = 256, 4
"""Columns of a tile at most, and how many chunks are a tile."""


@dataclass(frozen=True)
class Build:
    """The sizes of a GPU kernel, all powers of two, on which no result but the last bits of sums depends.

    >>> Build(chunk=8192, warps=8)
    Build(chunk=8192, block=1024, warps=8, rows=128)
    """

    chunk: int = 4096
    """Elements that a program walks over."""
    block: int = 1024
    """Elements at a time."""
    warps: int = 4
    """Groups of 32 threads that run a program."""
    rows: int = 128
    """Rows of scalars at a time."""

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if not 0 < size <= LONGEST or size & (size - 1):
                raise BackendError(f"a build's `{name}` is {size}", fix=f"give a power of two, {LONGEST:,} or less")
        if self.block > self.chunk:
            raise BackendError(f"a build's blocks of {self.block} are longer than chunks", fix="make chunks longer")
        if self.warps > WARPS:
            raise BackendError(f"a build has {self.warps} warps", fix=f"give {WARPS} or fewer")

    def options(self, real: str = "float32", *, grouped: bool = False, lined: bool = False) -> dict[str, Any]:
        """Return what Triton compiles with: operations are rounded one by one, and subnormals are not taken for 0.

        Left alone, the assembler aims at more programs a multiprocessor, for which a few kernels keep registers in
        memory. Memory is busy with 512 threads, with 320 that code in groups or add up columns, or with 256 that
        compute in float64.
        """
        threads = 256 if real == "float64" else 320 if grouped or lined else 512
        registers = min(255, REGISTERS // max(threads, 32 * self.warps))
        return {"num_warps": self.warps, "maxnreg": registers, "enable_fp_fusion": False, "enable_reflect_ftz": False}

    @property
    def wide(self) -> int:
        """Elements of a row at a time, where a rule has rows or columns; of several rows, as many as a block has."""
        return min(WIDEST, max(1, self.block // 2))

    @property
    def tile(self) -> int:
        """Elements that a program walks over there: a tile leaves a number a column, and so is taller than a chunk."""
        return TALLER * self.chunk

    @property
    def lanes(self) -> int:
        """Rows or columns at a time, where they are dealt with side by side; of several parts of each."""
        return 1 << (self.block.bit_length() - 1) // 2

    def fitting(self, grouped: bool) -> Build:
        """Return these sizes, or where slots are in units of groups those of a block: two warps take one at a time."""
        return replace(self, chunk=max(self.chunk, groups.BLOCK), block=groups.BLOCK, warps=2) if grouped else self


_build: ContextVar[Build] = ContextVar("_build", default=Build())  # noqa: B039 (it is frozen)


@contextmanager
def building(build: Build) -> Generator[None]:
    """Give other sizes to the kernels that are made in this block: an optimiser makes them in its first step."""
    before = _build.set(build)
    try:
        yield
    finally:
        _build.reset(before)


def current_build() -> Build:
    """Return the sizes of kernels that are made now."""
    return _build.get()
