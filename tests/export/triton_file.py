"""How tests run an exported file of Triton: in a module that may import torch and triton, beside our own kernels."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steprule as sr

ALLOWED = ("torch", "triton")
LIBRARY = {"exp": "exponential", "log": "logarithm", "pow": "power", "tanh": "tanh", "atan2": "angle",
           "fmod": "remainder"}  # fmt: skip
"""NVIDIA's functions, which the interpreter lacks, and what the library's own kernels call there."""


def only(name: str, *rest: Any) -> Any:
    """Import what a file may import."""
    if name.partition(".")[0] not in ALLOWED:
        raise ImportError(f"an exported file imports {name}")
    return builtins.__import__(name, *rest)


def load(text: str, folder: Path, name: str = "exported") -> Any:
    """Return the module of a file; Triton reads kernels where they are written."""
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": only}
    spec.loader.exec_module(module)
    return module


def maker(rule: Any, **options: Any) -> Any:
    """Return what makes our own optimiser, on Triton's kernels."""
    if isinstance(rule, type):
        return lambda params, **more: rule(params, **options, **more)
    return lambda params, **more: sr.Optimizer(params, rule, **options, **more)


def exported(rule: Any, folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """Return the class in the file of a rule, or a class, for parameters of a type."""
    if dtype is torch.float32:
        text = sr.export(rule, to="triton", **options)
    else:
        text = sr.export(maker(rule, **options)([torch.nn.Parameter(torch.ones(3, dtype=dtype))]), to="triton")
    module = load(text, folder)
    (found,) = (own for own in vars(module).values() if isinstance(own, type) and own.__module__ == "exported")
    return found


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Any]:
    """Return parameters, the same each time."""
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in shapes]


def fill(mine: list[Any], ours: list[Any], number: int, *, absent: int = -1) -> None:
    """Give both the same gradients, of which one is absent."""
    generator = torch.Generator().manual_seed(10 + number)
    for place, (own, other) in enumerate(zip(mine, ours, strict=True)):
        drawn = torch.randn(own.shape, generator=generator).to(own)
        own.grad, other.grad = (None, None) if place == absent else (drawn, drawn.clone())


def step(optimizer: Any, **given: Any) -> None:
    """Take a step; the interpreter's arithmetic is NumPy's, which would warn where machine code does not."""
    with np.errstate(all="ignore"):
        optimizer.step(**given)


def bits(tensor: Any) -> Any:
    """Return what can be compared bit for bit."""
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).tolist()


def same(mine: Any, ours: Any, host: tuple[str, ...] = ()) -> None:
    """Compare parameters and states bit for bit, but `host` slots: powers, which torch and NumPy round each its way."""
    pairs = zip(_listed(mine), _listed(ours), strict=True)
    for own, other in pairs:
        assert bits(own) == bits(other)
        assert mine.state[own].keys() == ours.state[other].keys()
        for name, value in ours.state[other].items():
            found = mine.state[own][name]
            assert (found.dtype, found.shape) == (value.dtype, value.shape)
            if name in host:
                torch.testing.assert_close(found, value.cpu(), rtol=1e-13, atol=0)
            else:
                assert bits(found) == bits(value), name


def _listed(optimizer: Any) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
