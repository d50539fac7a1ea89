"""Numba's set-up in this process: the settings that decide machine code, and whether it may compile.

`settings` are those in effect, wherever they come from: variables of the environment, a `.numba_config.yaml`, or
attributes of `numba.config` that a program has set since. Numba makes its generator of machine code once, from what is
set when it compiles first; both what it was made from and what is set now count.

A child that was forked while another thread compiled has half a compiler: Numba's locks are held by a thread that is
not there, and so may be those inside LLVM, which cannot be opened. Such a child does not touch it. Earlier
kernels go on; formulas that need a new one run as torch operations.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from llvmlite.binding import ffi
from numba.core import codegen, compiler_lock, config, registry

from ..errors import BackendError
from ..locks import held_elsewhere, reopen

_IDLE = ("CACHE_", "CHROME_", "COLOR_", "CUDA_", "DISABLE_CUDA", "FUNCTION_CACHE_", "GDB_", "NUMBA_", "THREADING_")
"""The beginnings of settings without effect on CPU kernels: those of caches, tools, colours, GPUs and threads."""

_set: Any = config
_made_from: list[tuple[str, ...]] = []
_lost = False


# What decides machine code ----------------------------------------------------------------------------


def _generator() -> tuple[str, ...]:
    """Return the settings from which Numba's generator of machine code was made, or would be made now."""
    name = llvm.get_host_cpu_name() if _set.CPU_NAME is None else str(_set.CPU_NAME)
    features = codegen.get_host_cpu_features() if _set.CPU_FEATURES is None else str(_set.CPU_FEATURES)
    now = (name, features, repr(_set.OPT))
    context: Any = vars(registry.cpu_target).get("_toplevel_target_context")
    if context is None:
        return now
    if not _made_from:
        _made_from.append((name, context.codegen().magic_tuple()[2], repr(_set.OPT)))
    return _made_from[0]


def settings() -> tuple[str, ...]:
    """Return everything that decides machine code, except its source and the versions of its makers."""
    _set.reload_config()  # as Numba does before it compiles: the environment and the file may have changed
    now = ((name, value) for name, value in vars(config).items() if name.isupper() and not name.startswith(_IDLE))
    return (
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        *_generator(),
        *(f"{name}={value!r}" for name, value in sorted(now)),
    )


# Whether it may be asked ------------------------------------------------------------------------------


def _locks() -> Iterator[Any]:
    """Give the locks that Numba and LLVM are used under."""
    compiler: Any = compiler_lock.global_compiler_lock
    library: Any = ffi.lib
    yield compiler._lock  # noqa: SLF001
    yield library._lock._lock  # noqa: SLF001


def _after_fork() -> None:
    """Find out whether another thread was compiling. Leave no lock taken that a clean-up would wait for."""
    global _lost  # noqa: PLW0603
    for own in _locks():
        _lost = _lost or held_elsewhere(own)
        reopen(own)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def obstacle() -> str:
    """Return why this process cannot compile, or ""."""
    return "this process was forked while another thread compiled, which leaves half a compiler" if _lost else ""


def switched_off() -> bool:
    """Whether NUMBA_DISABLE_JIT is set: kernels then run as Python."""
    return bool(_set.DISABLE_JIT)


def ask() -> None:
    """Raise `BackendError` if this process cannot compile."""
    if _lost:
        raise BackendError(
            f"no kernel can be compiled: {obstacle()}",
            fix='fork before or after a first step, start processes by spawn, or pass backend="eager"',
        )
