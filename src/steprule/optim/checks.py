"""Has any tensor of a list changed in a way that a raw pointer would not survive? Asked before every launch.

What a kernel relies on, for each tensor: its type, dtype, device, layout, sizes, strides, that it is not lazily
negated or conjugated, and its address. torch's own compiler asks the same question of its inputs, all but the
address, and answers it for a whole list in one call of C++ (`TensorGuards`); that call is used where this
version of torch has it. The address is read separately, for every tensor, at every step.

Why that is enough for memory safety: a tensor's bytes are reachable from its address, sizes and strides alone, and
these are compared with values that were checked against the storage's size. A storage that is freed or resized
changes its size, which is compared too: its address may be the old one again. Tensors and storages are held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

try:
    from torch._C._dynamo import guards  # pyright: ignore[reportMissingModuleSource]

    TensorGuards: Any = getattr(guards, "TensorGuards", None)
except ImportError:
    TensorGuards = None

Comparison = Callable[..., bool]
"""Called with the tensors of now, one an argument."""


def _described(tensor: torch.Tensor) -> tuple[Any, ...]:
    form = (type(tensor), tensor.dtype, tensor.device, tensor.layout, tensor.shape)
    strided = tensor.layout is torch.strided
    return (*form, tensor.stride(), tensor.is_neg(), tensor.is_conj()) if strided else form


def _slow(tensors: Sequence[torch.Tensor]) -> Comparison:
    seen = [_described(tensor) for tensor in tensors]
    return lambda *now: [_described(tensor) for tensor in now] == seen


def by() -> tuple[str, str]:
    """Return who compares tensors, `"torch"` or `"python"`, and why not torch.

    Tensors are compared so where there is no fast check. `explain` quotes it.
    """
    if TensorGuards is not None:
        return "torch", ""
    return "python", f"torch {torch.__version__} has no guards for lists of tensors (TensorGuards)"


def comparison(tensors: Sequence[torch.Tensor]) -> Comparison:
    """Return a function that tells whether tensors look exactly as these do now, address apart."""
    if not tensors:
        return lambda *now: not now
    if TensorGuards is None:
        return _slow(tensors)
    try:
        sizes: Any = [list(tensor.shape) for tensor in tensors]
        strides: Any = [list(tensor.stride()) for tensor in tensors]
        guard = TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    except (TypeError, RuntimeError):
        return _slow(tensors)
    return guard.check
