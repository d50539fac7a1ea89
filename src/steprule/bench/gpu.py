"""The GPU to time: its presence, name and memory."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

import steprule as sr

DEVICE = "cuda"
BACKEND = "triton_gpu"
_WHERE = "steprule bench --device cuda"
_AWAY = "leave out --device to time the CPU, or run it where torch.cuda.is_available() is True"


def require() -> None:
    """Refuse to go on without a GPU on which our kernels can run."""
    if not torch.cuda.is_available():
        reason = "finds none on this machine" if torch.version.cuda else "was built without CUDA"
        raise sr.errors.BackendError(f"there is no GPU to time: torch {reason}", where=_WHERE, fix=_AWAY)
    told = sr.explain(sr.optim.SGD([torch.nn.Parameter(torch.zeros(1, device=DEVICE))]))
    if told.backend != BACKEND:
        fix = "pip install 'steprule[gpu]' if that is Triton, or leave out --device to time the CPU"
        raise sr.errors.BackendError(f"our GPU kernels cannot run here: {told.reason}", where=_WHERE, fix=fix)


def facts() -> dict[str, Any]:
    """Name the GPU and its drivers; sizes are in bytes."""
    found: Any = torch.cuda.get_device_properties(DEVICE)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "cache": cache(),
        "memory": found.total_memory,
        "cuda": torch.version.cuda,
        "triton": import_module("triton").__version__,
    }


def cache() -> int | None:
    """Return the bytes of its last-level cache, if torch knows them."""
    return getattr(torch.cuda.get_device_properties(DEVICE), "L2_cache_size", None)


def available() -> int:
    """Return the free bytes, with those that torch holds unused."""
    free, _ = torch.cuda.mem_get_info(DEVICE)
    return free + torch.cuda.memory_reserved(DEVICE) - torch.cuda.memory_allocated(DEVICE)
