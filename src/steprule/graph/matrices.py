"""What functions of matrices mean, in float64: the definitions that every backend follows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
LEAST = 1e-30
"""No eigenvalue counts as less where a root is inverted, so that a matrix of zeros has a finite one."""


def orthogonalize(x: Matrix, a: Any, b: Any, c: Any, eps: Any, steps: Any) -> Matrix:
    """Iterate X ← aX + (bA + cA²)X, A = XXᵀ, from X over its length, or over eps if that is longer."""
    a, b, c = (float(np.asarray(number).item()) for number in (a, b, c))
    x = x / np.maximum(np.sqrt(np.sum(x * x)), float(np.asarray(eps).item()))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(int(np.asarray(steps).item())):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def matmul(a: Matrix, b: Matrix) -> Matrix:
    """Multiply two matrices."""
    return a @ b


def transpose(x: Matrix) -> Matrix:
    """Exchange rows and columns."""
    return x.T


def _eigen(x: Matrix) -> tuple[Matrix, Matrix]:
    """Return eigenvalues, growing, and eigenvectors as columns; NaN of what is not finite."""
    x = (x + x.T) / 2
    if not np.isfinite(x).all():
        return np.full(x.shape[0], np.nan), np.full(x.shape, np.nan)
    values, vectors = np.linalg.eigh(x)
    return values, vectors


def inverse_root(x: Matrix, p: Any, eps: Any) -> Matrix:
    """Return X^(−1/p) of a symmetric X; eigenvalues below eps times the greatest count as that."""
    values, vectors = _eigen(x)
    least = float(np.asarray(eps).item()) * values[-1:]
    values = np.maximum(np.maximum(values, least), LEAST) ** (-1 / float(np.asarray(p).item()))
    return (vectors * values) @ vectors.T


def eigenvectors(x: Matrix) -> Matrix:
    """Return eigenvectors as columns, by falling eigenvalue, each with its largest part positive."""
    vectors = _eigen(x)[1][:, ::-1]
    if not vectors.size:
        return vectors
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return vectors * np.where(largest < 0, -1.0, 1.0)


def qr(x: Matrix) -> Matrix:
    """Return Q of X = QR, where the diagonal of R is not negative."""
    if not np.isfinite(x).all():
        return np.full(x.shape, np.nan)
    q, r = np.linalg.qr(x)
    return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)


__all__ = ["eigenvectors", "inverse_root", "matmul", "orthogonalize", "qr", "transpose"]
