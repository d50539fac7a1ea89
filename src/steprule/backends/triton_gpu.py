"""The GPU backend: Triton kernels, one launch a pass for all tensors of a kind.

With TRITON_INTERPRET=1 the same kernels run in main memory, as Python: slow, and how they are tested without a GPU.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray

from ..errors import BackendError
from ..locks import lock
from ..plan.program import Program
from .base import DTYPES, Arrays, Backend, Kernel, Where
from .cache import execute
from .triton_batch import TritonBatch
from .triton_build import Build, current_build
from .triton_device import device_of
from .triton_dialect import TritonDialect
from .triton_lines import TritonLines

_modules: dict[str, dict[str, Any]] = {}
_lock = lock()


# Where it runs ----------------------------------------------------------------------------------------


@cache
def missing() -> str:
    """Return why this process has no Triton, or ""."""
    try:
        from . import triton_helpers  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return ""


def interpreted() -> bool:
    """Whether kernels run through Triton's interpreter, in main memory."""
    if missing():
        return False
    from .triton_helpers import interpreted

    return interpreted


# Kernels ----------------------------------------------------------------------------------------------


class TritonKernel(Kernel):
    """The kernels of a program."""

    dialect = TritonLines

    def __init__(self, program: Program, *, capturable: bool = False, build: Build | None = None) -> None:
        self.build = (build or current_build()).fitting(bool(program.grouped))
        super().__init__(program, capturable=capturable)
        self.captured: list[TritonBatch] = []
        """Batches that CUDA graphs point at: they live as long as the optimiser."""

    def _writer(self) -> TritonDialect:
        return (TritonLines if self.program.plan.axes else TritonDialect)(self.program, self.build)

    @property
    def functions(self) -> dict[str, Any]:
        """The kernels by name; Triton compiles each when it is first launched, and keeps machine code on disk."""
        name = hashlib.sha256(self.source.encode()).hexdigest()[:32]
        with _lock:
            if name not in _modules:
                _modules[name] = execute(self.source, name)
            return _modules[name]

    def table_of(self, counts: NDArray[Any], device: torch.device) -> torch.Tensor:
        """Return a table on the device, where kernels count."""
        there = device_of(device)
        if there.now().capturing:
            raise BackendError("what this step needs on the GPU is not there yet, and a CUDA graph is being captured",
                               fix="take a few steps before the capture, with the same parameters")  # fmt: skip
        return there.zeros(*counts.shape, dtype=torch.from_numpy(counts).dtype)

    def batch(self, arrays: Arrays, rows: Any, counts: torch.Tensor, where: Where | None = None) -> TritonBatch:  # noqa: ARG002
        """Bind tensors, each with a row of its own; the device keeps the counts."""
        device, kept = device_of(counts.device), self.captured if self.capturable else None
        return TritonBatch(self.program, self.functions, self.build, device, arrays, counts, where, kept)


class TritonGpu(Backend):
    """Kernels on a GPU, compiled by Triton; they count steps and leave them out by themselves."""

    name, kernel = "triton_gpu", TritonKernel
    decides = True

    def home(self, device: torch.device) -> bool:
        """Whether a device is not main memory."""
        return device.type != "cpu"

    def obstacle(self, device: torch.device, dtype: torch.dtype) -> str:
        """Return why there are no kernels for such parameters, or ""."""
        if device.type not in {"cuda", "cpu"}:
            return f"parameters are on {device.type}, for which there are no kernels"
        if dtype not in DTYPES:
            return f"parameters are {dtype}; GPU kernels are {', '.join(DTYPES.values())}"
        if missing():
            return missing()
        if device.type == "cpu":
            return "" if interpreted() else "Triton kernels run on a GPU, and parameters are in main memory"
        if interpreted():
            return "TRITON_INTERPRET=1 runs Triton kernels in main memory, and parameters are on a GPU"
        if torch.version.hip:
            return "Triton kernels have not been tried on AMD's GPUs"
        oldest = (8, 0) if dtype is torch.bfloat16 else (7, 0)
        found = torch.cuda.get_device_capability(device)
        return f"the GPU is of compute capability {found}, and {oldest} is needed" if found < oldest else ""

    def reason(self, device: torch.device) -> str:
        """Word what is run."""
        if device.type == "cpu":
            return "asked for; Triton's interpreter runs GPU kernels in main memory, slowly"
        return "parameters on a GPU run Triton kernels, one launch a pass for all tensors of a dtype"

    def remedy(self) -> str:
        """Return what brings Triton, if it is not there."""
        return "pip install 'steprule[gpu]', or leave backend=None" if missing() else super().remedy()
