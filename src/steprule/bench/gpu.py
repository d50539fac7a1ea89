"""The GPU to time: its presence, name, state and memory, and what marks time on it."""

from __future__ import annotations

import subprocess
from importlib import import_module
from typing import Any

import torch

import steprule as sr

DEVICE = "cuda"
BACKEND = "triton_gpu"
UNKNOWN = "unknown"
ASSUMED_CACHE = 64 * 2**20
"""The assumed last-level cache of a GPU that does not report it, in bytes."""
_ASKED = {
    "driver": "driver_version",
    "sm_megahertz": "clocks.sm",
    "sm_megahertz_at_most": "clocks.max.sm",
    "memory_megahertz": "clocks.mem",
    "power_limit_watts": "power.limit",
    "celsius": "temperature.gpu",
}
"""What nvidia-smi is asked for, and the name under which a record has it."""


class Gpu:
    """The GPU that torch calls cuda."""

    place = DEVICE
    """Where its tensors are, as torch calls it."""

    def require(self, flag: str = "--device cuda") -> None:
        """Refuse to go on without a GPU on which our kernels can run, which this flag asked for."""
        where, away = f"steprule bench {flag}", f"leave out {flag.split()[0]} to time the CPU"
        if not torch.cuda.is_available():
            reason = "finds none on this machine" if torch.version.cuda else "was built without CUDA"
            raise sr.errors.BackendError(
                f"there is no GPU to time: torch {reason}",
                where=where,
                fix=f"{away}, or run it where torch.cuda.is_available() is True",
            )
        told = sr.explain(sr.optim.SGD([torch.nn.Parameter(torch.zeros(1, device=self.place))]))
        if told.backend != BACKEND:
            fix = f"pip install 'steprule[gpu]' if that is Triton, or {away}"
            raise sr.errors.BackendError(f"our GPU kernels cannot run here: {told.reason}", where=where, fix=fix)

    def facts(self) -> dict[str, Any]:
        """Name the GPU and its drivers, with its state as it is now; sizes are in bytes."""
        found = self._properties()
        return {
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "cache": self.cache(),
            "memory": found.total_memory,
            "cuda": torch.version.cuda,
            "triton": import_module("triton").__version__,
            **self.state(),
        }

    def state(self) -> dict[str, Any]:
        """Return driver, clocks, power limit and temperature, each `unknown` if nvidia-smi does not tell."""
        try:
            uuid = str(getattr(self._properties(), "uuid", ""))
        except RuntimeError:  # it is lost
            uuid = ""
        return smi(uuid)

    def _properties(self) -> Any:
        return torch.cuda.get_device_properties(self.place)

    def cache(self) -> int:
        """Return the bytes of its last-level cache."""
        return getattr(self._properties(), "L2_cache_size", None) or ASSUMED_CACHE

    def available(self) -> int:
        """Return the free bytes, with those that torch holds unused."""
        free, _ = torch.cuda.mem_get_info(self.place)
        return free + torch.cuda.memory_reserved(self.place) - torch.cuda.memory_allocated(self.place)

    def event(self) -> Any:
        """Return a mark that the GPU puts a time on when it comes by."""
        return torch.cuda.Event(enable_timing=True)

    def lost(self) -> str | None:
        """Return why every call fails from now on, if so: some errors leave the process no GPU."""
        try:
            torch.cuda.synchronize(self.place)
            torch.zeros(1, device=self.place).item()
        except torch.cuda.OutOfMemoryError:
            return None
        except RuntimeError as error:
            return first_line(error)
        return None

    def sweep(self) -> None:
        """Give back the memory of what is gone, graphs among it."""
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Word an error by its class and its message's first line; Triton's compilers say what is wrong further down."""
    told = str(getattr(error, "error_message", None) or error).strip()
    if type(error).__module__.startswith("triton"):
        told = " ".join(told.split())
    return f"{type(error).__name__}: {told.partition(chr(10))[0][:200]}"


def smi(uuid: str = "") -> dict[str, Any]:
    """Ask nvidia-smi for the state of a GPU; what it does not tell is `unknown`."""
    which = ["-i", uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"] if uuid else []
    line = ["nvidia-smi", f"--query-gpu={','.join(_ASKED.values())}", "--format=csv,noheader,nounits", *which]
    try:
        told = subprocess.run(line, capture_output=True, text=True, check=True, timeout=10).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        told = ""
    values = [value.strip() for value in (told.splitlines() or [""])[0].split(",")]
    if len(values) != len(_ASKED):
        return dict.fromkeys(_ASKED, UNKNOWN)
    return {name: _read(name, value) for name, value in zip(_ASKED, values, strict=True)}


def _read(name: str, value: str) -> Any:
    if not value or value.startswith("["):  # [N/A], [Not Supported]
        return UNKNOWN
    try:
        return value if name == "driver" else float(value)
    except ValueError:
        return UNKNOWN
