"""Compile a source's kernels for sm_90, without a GPU and without the interpreter; prints PTX as JSON, by kernel.

Run in a process of its own: a process either interprets Triton's kernels or compiles them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import triton
from half_kernel import every
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from steprule import board, chain, clip_global_norm, rule
from steprule.backends.triton_build import Build
from steprule.backends.triton_gpu import TritonKernel
from steprule.graph.ops import OPS, Reducer, reduction
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule
from steprule.rule import atan2, exp, floor, log, mean, norm, sqrt, tanh, where
from steprule.rule import max as largest
from steprule.rule.symbols import apply
from steprule.zoo.adam import adam

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_kernels

ARCH, THREADS = 90, 128
SIXTEEN_BYTES = {"float64": 2, "float32": 4, "bfloat16": 8, "float16": 8}
"""So many elements, which a thread moves at once: shorter blocks compile sooner."""

OPS["product"] = reduction("product", "tensor", Reducer(1.0, "mul", each="abs"), "product({})", "product({})")


@rule
def everything(theta, g, m, *, lr=0.1, beta=0.9, t):
    """Use what is spelled by a helper."""
    m = beta**t * m + exp(-abs(g)) * log(1 + m * m) ** 1.5
    often = (abs(g) < 1) & ~(m > 2) | (t % 10 == 0)
    m = where(often, tanh(m), floor(g))
    return theta - lr * m / sqrt(norm(g) + mean(m) + largest(g) + apply("product", g)), m


@rule
def library(theta, g, *, lr=0.1):
    """Use what NVIDIA's library approximates first, and then corrects."""
    return theta - lr * (atan2(g, theta) % 3)


PROGRAMS = {"adam": chain(clip_global_norm(max_norm=1.0), adam), "board": board.adam, "everything": everything,
            "library": library}  # fmt: skip


def ptx(name: str, dtype: str) -> dict[str, str]:
    """Return the PTX of each kernel of a guarded plan; in other types than float32 of those that walk over elements."""
    program = lowered(schedule(PROGRAMS[name].graph, guarded=True), dtype)
    kernel = TritonKernel(program, build=Build(block=THREADS * SIXTEEN_BYTES[dtype]))
    own = gpu_kernels.kernels_of(kernel.source, f"{name}_{dtype}")
    asked = [name for name in own if dtype == "float32" or name.startswith("pass_")]
    return {name: gpu_kernels.compiled(own[name], ARCH, Build().options(dtype))["ptx"] for name in asked}


def half(dtype: str) -> dict[str, str]:
    """Return the PTX of the formulas of 16 bits."""
    kinds = ["*fp32", "*u32", "*u16", "*i16", "*fp32", "*u16", "*u16", "*u16", "*i16", "*fp32", "*u32", *["i32"] * 5]
    signature = dict(zip(every.arg_names, [*kinds, "constexpr", "constexpr"], strict=True))
    source = ASTSource(every, signature, constexprs={"HALF": dtype == "float16", "BLOCK": 1024})
    return {"every": triton.compile(source, target=GPUTarget("cuda", ARCH, 32), options=Build().options()).asm["ptx"]}


if __name__ == "__main__":
    asked, golden = json.loads(sys.argv[1])
    machine = {name: gpu_kernels.measured_all(gpu_kernels.sources()[name], name, (ARCH,)) for name in golden}
    found = [half(dtype) if name == "half" else ptx(name, dtype) for name, dtype in asked]
    print(json.dumps([found, triton.__version__, machine]))
