"""Compile a source's kernels for sm_90, without a GPU and without the interpreter; prints PTX as JSON, by kernel.

Run in a process of its own: a process either interprets Triton's kernels or compiles them.
"""

from __future__ import annotations

import json
import sys

import triton
from half_kernel import every
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from steprule import board, chain, clip_global_norm, rule
from steprule.backends.triton_dialect import COUNTS, TABLES, Build
from steprule.backends.triton_gpu import TritonKernel
from steprule.graph.ops import OPS, Reducer, reduction
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule
from steprule.rule import exp, log, mean, norm, sqrt
from steprule.rule import max as largest
from steprule.rule.symbols import apply
from steprule.zoo.adam import adam

WIDE = dict.fromkeys(("hyper", "host", "partial", "reduced", "total"), "*fp64")
SIGNATURE = dict.fromkeys(TABLES, "*i64") | WIDE | {"counts": "*fp32", "found": "*fp32"}
SIGNATURE |= dict.fromkeys(COUNTS, "i32")

OPS["product"] = reduction("product", "tensor", Reducer(1.0, "mul", each="abs"), "product({})", "product({})")


@rule
def everything(theta, g, m, *, lr=0.1, beta=0.9, t):
    """Use what is spelled by a helper."""
    m = beta**t * m + exp(-abs(g)) * log(1 + m * m) ** 1.5
    return theta - lr * m / sqrt(norm(g) + mean(m) + largest(g) + apply("product", g)), m


PROGRAMS = {"adam": chain(clip_global_norm(max_norm=1.0), adam), "board": board.adam, "everything": everything}


def ptx(name: str, dtype: str, *, aligned: bool) -> dict[str, str]:
    """Return the PTX of each kernel of a guarded plan."""
    kernel = TritonKernel(lowered(schedule(PROGRAMS[name].graph, guarded=True), dtype))
    found = {}
    for own, function in kernel.functions.items():
        if isinstance(function, triton.JITFunction) and own.partition("_")[0] in {"begin", "pass", "end", "finish"}:
            divisible = {(place,): [["tt.divisibility", 16]] for place in range(len(TABLES))}
            signature = SIGNATURE | {"ALIGNED": "constexpr"}
            source = ASTSource(function, signature, constexprs={"ALIGNED": aligned}, attrs=divisible)
            target = GPUTarget("cuda", 90, 32)
            found[own] = triton.compile(source, target=target, options=kernel.build.options).asm["ptx"]
    return found


def half(dtype: str) -> dict[str, str]:
    """Return the PTX of the formulas of 16 bits."""
    kinds = ["*fp32", "*u32", "*u16", "*i16", "*fp32", "*u16", "*u16", "*u16", "*i16", "*fp32", "*u32", *["i32"] * 5]
    signature = dict(zip(every.arg_names, [*kinds, "constexpr", "constexpr"], strict=True))
    source = ASTSource(every, signature, constexprs={"HALF": dtype == "float16", "BLOCK": 1024})
    return {"every": triton.compile(source, target=GPUTarget("cuda", 90, 32), options=Build().options).asm["ptx"]}


if __name__ == "__main__":
    asked = [(name, dtype, aligned) for name, dtype, aligned in json.loads(sys.argv[1])]
    found = [half(dtype) if name == "half" else ptx(name, dtype, aligned=aligned) for name, dtype, aligned in asked]
    print(json.dumps(found))
