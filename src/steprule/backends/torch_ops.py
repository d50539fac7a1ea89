"""What operations are in torch, where they are not its functions of the same name; those of matrices take stacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..graph.matrices import LEAST
from ..graph.ops import OPS

GRAM_FROM = 1.5
"""How many times longer than the short side the other must be for the Gram form to have less to multiply."""
RESTART = 2
"""Before which iteration the Gram form begins anew: singular values that rounding has lifted would grow without end."""
HALVED_FROM, STRIP = 512, 192
"""From how many rows only half of a symmetric product is computed in main memory, and how many rows at a time."""


def orthogonalize(x: torch.Tensor, a: float, b: float, c: float, eps: float, steps: float) -> torch.Tensor:
    """Iterate X ← aX + (bA + cA²)X, A = XXᵀ, in bfloat16 unless it is float64."""
    x, tall = _begun(x, eps)
    for _ in range(int(steps)):
        gram = _symmetric(x, x.mT)
        x = _sum(x, _symmetric(gram, gram, gram, b, c), x, a, 1.0)
    return x.mT if tall else x


def orthogonalize_gram(x: torch.Tensor, a: float, b: float, c: float, eps: float, steps: float) -> torch.Tensor:
    """Do the same to A alone, then multiply X by all polynomials: where one side is long, there is less to multiply."""
    if max(x.shape[-2:]) < GRAM_FROM * min(x.shape[-2:]):
        return orthogonalize(x, a, b, c, eps, steps)
    (x, tall), whole, product = _begun(x, eps), int(steps), None
    gram = _symmetric(x, x.mT)
    for step in range(whole):
        if step == RESTART and product is not None:
            x = product @ x
            gram, product = _symmetric(x, x.mT), None
        factor = _symmetric(gram, gram, gram, b, c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else _symmetric(factor, product)
        if step + 1 not in {whole, RESTART}:
            gram = _symmetric(_symmetric(factor, gram), factor)
    x = x if product is None else product @ x
    return x.mT if tall else x


def _begun(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, bool]:
    """Return a matrix, lying, over its length; and whether it was tall."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x if x.dtype is torch.float64 else x.bfloat16()
    length = x.norm() if x.dim() == 2 else x.norm(dim=(-2, -1), keepdim=True)
    return x / length.clamp(min=eps), tall


def _sum(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor, beta: float, alpha: float) -> torch.Tensor:
    """Return βx + α left · right."""
    return (torch.addmm if x.dim() == 2 else torch.baddbmm)(x, left, right, beta=beta, alpha=alpha)


def _symmetric(
    left: torch.Tensor, right: torch.Tensor, x: torch.Tensor | None = None, beta: float = 0.0, alpha: float = 1.0
) -> torch.Tensor:
    """Return left · right, or βx + α left · right, where that is symmetric."""
    rows = left.shape[-2]
    if left.dim() > 2 or rows < HALVED_FROM or left.device.type != "cpu":
        return left @ right if x is None else _sum(x, left, right, beta, alpha)
    whole = left.new_empty(rows, rows)
    for begin in range(0, rows, STRIP):
        end = begin + STRIP
        own, rest = left[begin:end], right[:, begin:]
        strip = own @ rest if x is None else _sum(x[begin:end, begin:], own, rest, beta, alpha)
        whole[begin:end, begin:] = strip
        whole[end:, begin:end] = strip[:, STRIP:].T
    return whole


def _finite(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return matrices that decompositions take, and which of them they were not: these become the identity."""
    sound = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(sound, x, torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)), sound


def inverse_root(x: torch.Tensor, p: float, eps: float) -> torch.Tensor:
    """Return X^(−1/p) of a symmetric X; eigenvalues below eps times the greatest count as that."""
    x, sound = _finite((x + x.mT) / 2)
    values, vectors = torch.linalg.eigh(x)
    values = torch.maximum(values, eps * values[..., -1:]).clamp(min=LEAST) ** (-1 / p)
    return torch.where(sound, (vectors * values[..., None, :]) @ vectors.mT, torch.nan)


def eigenvectors(x: torch.Tensor) -> torch.Tensor:
    """Return eigenvectors as columns, by falling eigenvalue, each with its largest part positive."""
    x, sound = _finite((x + x.mT) / 2)
    vectors = torch.linalg.eigh(x)[1].flip(-1)
    if vectors.numel():
        largest = vectors.take_along_dim(vectors.abs().argmax(-2, keepdim=True), -2)
        vectors = torch.where(largest < 0, -vectors, vectors)
    return torch.where(sound, vectors, torch.nan)


def qr(x: torch.Tensor) -> torch.Tensor:
    """Return Q of X = QR, where the diagonal of R is not negative."""
    x, sound = _finite(x)
    q, r = torch.linalg.qr(x)
    return torch.where(sound, torch.where(r.diagonal(dim1=-2, dim2=-1)[..., None, :] < 0, -q, q), torch.nan)


_SPELLING: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "mod": lambda a, b: torch.remainder(a, b) + 0.0,
    "sign": lambda a: torch.where(a != a, a, torch.sgn(a)),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "orthogonalize": orthogonalize,
    "orthogonalize_gram": orthogonalize_gram,
    "matmul": torch.matmul,
    "transpose": lambda a: a.mT,
    "inverse_root": inverse_root,
    "eigenvectors": eigenvectors,
    "qr": qr,
}


def spelling(op: str) -> Callable[..., Any]:
    """Return the torch meaning of an operation on tensors and numbers."""
    return _SPELLING.get(op) or getattr(torch, OPS[op].torch)


__all__ = ["eigenvectors", "inverse_root", "orthogonalize", "orthogonalize_gram", "qr", "spelling"]
