"""What a module does with a parameter of its own, as its class and its other tensors tell; names tell nothing here.

torch's own layers say it by their class. In a module of somebody's own the shape says it, or the lines of its class: a
matrix that they hand to a product multiplies features. What nothing tells is left to be asked for.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils.parametrize import ParametrizationList

from .cut import STACK

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_PRODUCTS = {"linear": "hidden", "matmul": "hidden", "mm": "hidden", "addmm": "hidden", "embedding": "embedding",
             "bmm": "hidden", "baddbmm": "hidden", "einsum": "hidden", "_grouped_mm": "hidden",
             "conv1d": "convolution", "conv2d": "convolution", "conv3d": "convolution"}  # fmt: skip
"""Functions of torch that a matrix is handed to, and what it is there."""


class Use(NamedTuple):
    """What a module does with a parameter, and what shows it."""

    role: str
    reason: str
    splits: Any = None
    """The matrices in it, as groups declare them."""


class Layer(NamedTuple):
    """A module that multiplies by a matrix: its path, the numbers that it takes and gives an element or place."""

    path: str
    module: nn.Module
    weight: torch.Tensor
    takes: int
    gives: int


def width(parameter: torch.Tensor) -> int:
    """Return the number of dimensions in which a parameter has more than one element."""
    return sum(size > 1 for size in parameter.shape)


def own_parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters of a module that are no child's."""
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def use(module: nn.Module, name: str) -> Use | None:
    """Return what a module does with its parameter of a name, or None if nothing tells."""
    parameter, kind = own_parameters(module)[name], type(module).__name__
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Use("embedding", f"rows of {kind} are looked up")
    if isinstance(module, NORMS):
        return Use("norm", f"{name} of {kind}")
    if name == "bias" and isinstance(module, nn.Linear | nn.Bilinear | _ConvNd):
        return Use("bias", f"bias of {kind}")
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return Use("recurrent", f"gates of {kind}") if parameter.ndim > 1 else Use("bias", f"bias of {kind}")
    if width(parameter) < 2:
        return _of_vector(module, name, kind)
    if isinstance(module, _ConvNd):
        alone = 1 < module.groups == module.in_channels
        return Use("depthwise", f"{kind} of single channels") if alone else Use("convolution", f"filters of {kind}")
    if isinstance(module, nn.Linear):
        return Use("hidden", f"weight of {kind}")
    if isinstance(module, nn.MultiheadAttention):
        fused = parameter is module.in_proj_weight
        return Use("qkv", f"{name} of {kind}", 3) if fused else Use("hidden", f"{name} of {kind}")
    return _of_its_own(module, name, kind)


def _of_vector(module: nn.Module, name: str, kind: str) -> Use:
    """Return the use of what has one dimension, or none."""
    own, others = own_parameters(module), (child for child in module.modules() if child is not module)
    parameter, matrices = own[name], [one for one in own.values() if width(one) > 1]
    if any(parameter.numel() in matrix.shape for matrix in matrices) and parameter.ndim == 1:
        return Use("bias", f"{name} beside a matrix of {kind}")
    if parameter.ndim == 1 and not (matrices or any(map(own_parameters, others))):
        return Use("norm", f"{kind} has vectors alone, which scale or shift")
    return Use("vector", f"{name} of {kind} has one dimension")


def _of_its_own(module: nn.Module, name: str, kind: str) -> Use | None:
    """Return the use of a matrix in a module that torch does not know."""
    parameter = own_parameters(module)[name]
    found = _handed_to(type(module)).get(name)
    if parameter.ndim > 2 and parameter.shape[0] == 1:
        return Use("positional", f"{name} of {kind} is one for every example")
    if found is not None and (parameter.ndim == 2 or _PRODUCTS[found] == "convolution"):
        return Use(_PRODUCTS[found], f"{kind} hands {name} to {found}")
    if parameter.ndim > 2:
        if found is not None and parameter.ndim == 3:
            return Use("stack", f"{kind} hands matrices of {name} to {found}", STACK)
        return Use("stack", f"{name} of {kind} is {parameter.shape[0]} matrices, or more")
    if any(not own.is_floating_point() for own in module.buffers(recurse=False)):
        return Use("positional", f"{kind} has a buffer of places in {name}")
    own, children = own_parameters(module), list(module.children())
    rest = [one for key, one in own.items() if key != name]
    if not children and len(rest) == 1 and rest[0].ndim == 1 and rest[0].numel() in parameter.shape:
        return Use("hidden", f"{name} of {kind}, whose bias is as long as a side of it")
    return None


@cache
def lines_of(kind: type) -> tuple[ast.AST, ...]:
    """Return what is written of a class, then of those that it inherits from, torch's left out."""
    found: list[ast.AST] = []
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] != "torch" and base is not object:
            with suppress(OSError, TypeError, SyntaxError):  # typed into a terminal, or made by a program
                found.append(ast.parse(textwrap.dedent(inspect.getsource(base))))
    return tuple(found)


@cache
def _handed_to(kind: type) -> dict[str, str]:
    """Map attributes of a class to the functions among `_PRODUCTS` that its lines hand them to."""
    found: dict[str, str] = {}
    for tree in lines_of(kind):
        for node in ast.walk(tree):
            for function, name in _products(node):
                found.setdefault(name, function)
    return found


def _products(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Give the function and the attribute of `self` in each product that a node is."""
    function, arguments = "", list[ast.expr]()
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        function, arguments = "matmul", [node.left, node.right]
    elif isinstance(node, ast.Call):
        named: Any = node.func
        function = getattr(named, "attr", getattr(named, "id", ""))
        arguments = [*node.args, *(key.value for key in node.keywords)]
    if function in _PRODUCTS:
        for argument in arguments:
            while isinstance(argument, ast.Call) and isinstance(argument.func, ast.Attribute):
                argument = argument.func.value  # noqa: PLW2901 - self.weight.t(), self.weight.to(x.dtype)
            while isinstance(argument, ast.Subscript) or (
                isinstance(argument, ast.Attribute) and not isinstance(argument.value, ast.Name)
            ):
                argument = argument.value  # noqa: PLW2901 - self.weight.T, self.experts[index]
            if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "self":
                yield function, argument.attr


def layers(model: nn.Module) -> list[Layer]:
    """List the modules that multiply by a matrix, in the order in which the model has them."""
    found: list[Layer] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found.append(Layer(path, module, module.weight, module.in_features, module.out_features))
        elif isinstance(module, _ConvNd):
            found.append(Layer(path, module, module.weight, module.in_channels, module.out_channels))
        elif not isinstance(module, ParametrizationList | nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
            for name, own in own_parameters(module).items():
                told = use(module, name) if own.ndim == 2 else None
                if told is not None and told.role == "hidden":
                    bias = {one.numel() for one in own_parameters(module).values() if one.ndim == 1}
                    gives, takes = own.shape if own.shape[0] in bias or own.shape[1] not in bias else own.shape[::-1]
                    found.append(Layer(path, module, own, takes, gives))
    return found
