"""The parameters: lists of tensor shapes, each named after the model that has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]

THINNED = 800_000
"""How many numbers a thinned list has at most: few enough to check in float64, enough for several threads."""


@dataclass(frozen=True)
class Workload:
    """Shapes to update. A `memory_bound` one is meant to come from main memory at every step, never from a cache."""

    name: str
    shapes: Shapes
    memory_bound: bool = False

    @property
    def tensors(self) -> int:
        """How many tensors there are."""
        return len(self.shapes)

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        return sum(math.prod(shape) for shape in self.shapes)

    def thin(self) -> Workload:
        """Return a list of as many tensors, each cut to its share of the checked numbers."""
        share = THINNED // self.tensors
        return Workload(f"{self.name}, thinned", tuple(_cut(shape, share) for shape in self.shapes))


def _cut(shape: Shape, most: int) -> Shape:
    """Shorten a shape's first extents until it holds about that many numbers."""
    cut = list(shape)
    for axis in range(len(cut)):
        rest = math.prod(cut) // cut[axis]
        cut[axis] = max(1, min(cut[axis], most // rest))
    return tuple(cut)


def gpt2(layers: int = 12, width: int = 768, vocabulary: int = 50_257, context: int = 1024) -> Shapes:
    """Return the tensors of GPT-2: 124 million parameters unless made smaller; the head is tied to the embedding."""
    norm = ((width,), (width,))
    attention = ((width, 3 * width), (3 * width,), (width, width), (width,))
    network = ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    layer = (*norm, *attention, *norm, *network)
    return ((vocabulary, width), (context, width), *(layer * layers), *norm)


def resnet18(classes: int = 1000) -> Shapes:
    """Return the tensors of ResNet-18: 11.7 million parameters in 62 tensors."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    before = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            shapes += [(width, before, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if block == 0 and before != width:
                shapes += [(width, before, 1, 1), (width,), (width,)]
            before = width
    return (*shapes, (classes, before), (classes,))


def perceptron(*sizes: int) -> Shapes:
    """Return the weights and biases of fully connected layers."""
    return tuple(shape for a, b in pairwise(sizes) for shape in ((b, a), (b,)))


def many(count: int, size: int) -> Workload:
    """Return `count` tensors of `size` numbers."""
    return Workload(f"{count:,} x {size:,}", ((size,),) * count)


def millions(count: int) -> str:
    """Word a number of parameters."""
    return f"{count / 1e6:.0f}M" if count >= 1e7 else f"{count / 1e6:.1f}M"
