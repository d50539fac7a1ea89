"""Compile the kernels of exported files for sm_90, without a GPU and without the interpreter; prints PTX as JSON.

Run in a process of its own: a process either interprets Triton's kernels or compiles them.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

NUMBERS = ("hyper", "host", "partial", "reduced", "total")


def ptx(kernel: Any, options: Any) -> str:
    """Return what Triton makes of a kernel, whose tables begin at multiples of 16 bytes."""
    names = kernel.arg_names
    types = {name: "i32" if name.endswith("_count") else "*fp64" if name in NUMBERS else "*i64" for name in names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if types[name] != "i32"}
    source = ASTSource(kernel, types, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


def kernels(path: Path) -> dict[str, str]:
    """Return the PTX of a file, by kernel."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = {name: part for name, part in vars(module).items() if name.startswith(("pass_", "end_", "finish"))}
    return {name: ptx(part, module.OPTIONS) for name, part in own.items()}


if __name__ == "__main__":
    print(json.dumps({path.stem: kernels(path) for path in sorted(Path(sys.argv[1]).glob("*.py"))}))
