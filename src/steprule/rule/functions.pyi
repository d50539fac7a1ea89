"""The functions of the language, from the rows of the op table: numbers they compute, of symbols they make the graph."""

from typing import Any

__all__ = ['abs', 'atan2', 'clamp', 'columns', 'exp', 'floor', 'global_norm', 'global_sum', 'log', 'max', 'maximum', 'mean', 'minimum', 'norm', 'normal', 'numel', 'rademacher', 'rows', 'sign', 'sqrt', 'sum', 'tanh', 'uniform', 'where']

def abs(x: Any) -> Any:
    """Return the absolute value of every element."""

def atan2(a: Any, b: Any) -> Any:
    """Return the angle of the point (b, a), from −π to π: whose tangent is a / b."""

def clamp(x: Any, low: Any, high: Any) -> Any:
    """Move every element into [low, high]."""

def columns(x: Any) -> Any:
    """Return the number of columns of a whole tensor: the elements of a row; 1 for a vector."""

def exp(x: Any) -> Any:
    """Return e to the power of every element."""

def floor(x: Any) -> Any:
    """Return the greatest whole number that is not above, of every element."""

def global_norm(x: Any) -> Any:
    """Return the Euclidean length over all tensors of the optimiser, accumulated in float64."""

def global_sum(x: Any) -> Any:
    """Return the sum over all elements of all tensors of the optimiser."""

def log(x: Any) -> Any:
    """Return the natural logarithm of every element."""

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

def uniform() -> Any:
    """Return a number from 0, below 1, for every element, another one at every step."""

def where(condition: Any, a: Any, b: Any) -> Any:
    """Return `a` where the condition holds, else `b`."""
