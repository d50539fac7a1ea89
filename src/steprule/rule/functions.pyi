"""The functions of the language, from the rows of the op table: numbers they compute, of symbols they make the graph."""

from typing import Any

__all__ = ['abs', 'atan2', 'clamp', 'columns', 'eigenvectors', 'exp', 'floor', 'global_norm', 'global_sum', 'inverse_root', 'log', 'matmul', 'max', 'maximum', 'mean', 'minimum', 'norm', 'normal', 'numel', 'orthogonalize', 'qr', 'rademacher', 'rows', 'sign', 'sqrt', 'sum', 'tanh', 'transpose', 'uniform', 'where']

def abs(x: Any) -> Any:
    """Return the absolute value of every element."""

def atan2(a: Any, b: Any) -> Any:
    """Return the angle of the point (b, a), from −π to π: whose tangent is a / b."""

def clamp(x: Any, low: Any, high: Any) -> Any:
    """Move every element into [low, high].

    >>> import steprule as sr
    >>> sr.clamp(2.5, -1.0, 1.0)
    1.0

    Works element by element on arrays and symbols of any rank, and on numbers. Raises `RuleError` for anything else.
    """

def columns(x: Any) -> Any:
    """Return the number of columns of a whole tensor: the elements of a row; 1 for a vector."""

def eigenvectors(x: Any) -> Any:
    """Return a symmetric matrix's eigenvectors as columns, by falling eigenvalue, the largest part positive."""

def exp(x: Any) -> Any:
    """Return e to the power of every element."""

def floor(x: Any) -> Any:
    """Return the greatest whole number that is not above, of every element."""

def global_norm(x: Any) -> Any:
    """Return the Euclidean length over all tensors of the optimiser, accumulated in float64."""

def global_sum(x: Any) -> Any:
    """Return the sum over all elements of all tensors of the optimiser."""

def inverse_root(x: Any, p: Any, *, eps: Any = 1e-06) -> Any:
    """Return the symmetric matrix x to the power of −1/p; eigenvalues below `eps` times the greatest count as that.

    >>> import steprule as sr
    >>> @sr.rule
    ... def half_shampoo(theta, g, left=sr.slot(rank="left"), *, lr=0.1):
    ...     left = left + g @ sr.transpose(g)
    ...     return theta - lr * sr.inverse_root(left, 2) @ g, left

    `x` is made symmetric first. Of zeros the root is large, and finite. Raises `RuleError` for a number.
    """

def log(x: Any) -> Any:
    """Return the natural logarithm of every element."""

def matmul(a: Any, b: Any) -> Any:
    """Return the product of two matrices, as `a @ b` does."""

def max(x: Any, *, axis: Any = None) -> Any:
    """Return the largest element of one tensor, of each row (axis=1) or column (axis=0); −∞ if it has none."""

def maximum(a: Any, b: Any) -> Any:
    """Return the larger of two values, element by element; NaN wins."""

def mean(x: Any, *, axis: Any = None) -> Any:
    """Return the mean over the elements of one tensor, each row (axis=1) or column (axis=0); NaN of none."""

def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of two values, element by element; NaN wins."""

def norm(x: Any, *, axis: Any = None) -> Any:
    """Return the Euclidean length of one tensor, of each row (axis=1) or column (axis=0), added in float64."""

def normal() -> Any:
    """Return a standard normal number for every element, another one at every step."""

def numel(x: Any) -> Any:
    """Return the number of elements of a whole tensor."""

def orthogonalize(x: Any, a: Any = 3.4445, b: Any = -4.775, c: Any = 2.0315, *, eps: Any = 1e-07, steps: Any = 5, gram: bool = False) -> Any:
    """Move all singular values of a matrix near 1, between 0.7 and 1.2, by Newton-Schulz iterations.

    >>> import steprule as sr
    >>> @sr.rule
    ... def muon(theta, g, m, *, lr=0.02, beta=0.95):
    ...     m = beta * m + g
    ...     return theta - lr * sr.orthogonalize(m), m

    The matrix, over its length or `eps`, goes `steps` times through aX + (bA + cA²)X, where A = XXᵀ. A vector is one
    column, and keeps its direction. On parameters that are not float64 it is computed in bfloat16, as torch's Muon and
    its author do. `gram` iterates the smaller A alone, which is quicker where one side is long, and less exact (Jordan
    et al., 2024). Raises `RuleError` for a number: it is taken of arrays.
    """

def qr(x: Any) -> Any:
    """Return the orthonormal Q of a square matrix A = QR, where R is triangular and its diagonal not negative."""

def rademacher() -> Any:
    """Return −1 or 1 for every element, each as often, another one at every step."""

def rows(x: Any) -> Any:
    """Return the number of rows of a whole tensor: its leading size; a vector's is that of its elements."""

def sign(x: Any) -> Any:
    """Return −1, 0 or 1 for every element; NaN stays NaN."""

def sqrt(x: Any) -> Any:
    """Return the square root of every element."""

def sum(x: Any, *, axis: Any = None) -> Any:
    """Return the sum over the elements of one tensor, or of each of its rows (axis=1) or columns (axis=0)."""

def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent of every element."""

def transpose(x: Any) -> Any:
    """Return a matrix with its rows as columns."""

def uniform() -> Any:
    """Return a number from 0, below 1, for every element, another one at every step."""

def where(condition: Any, a: Any, b: Any) -> Any:
    """Return `a` where the condition holds, else `b`."""
