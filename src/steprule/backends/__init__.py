"""Plans made runnable: readable kernel source for the CPU, torch operations for everything else.

Takes: a plan and the tensors of one dtype and device.
Gives: a `Batch` that runs the plan's passes on them.
Next door: `plan` (what is run), `optim` (who calls).
"""

from .base import Backend
from .eager import Eager
from .numba_cpu import NumbaCpu
from .triton_gpu import TritonGpu

EAGER = Eager()
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (NumbaCpu(), TritonGpu(), EAGER)}
"""Every backend, by name."""
