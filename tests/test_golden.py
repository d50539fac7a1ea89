"""Generated kernels of the zoo, as they were committed: what changes in them shows, and can be read.

`python tests/test_golden.py` writes tests/golden, and prints what changed in each kernel.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest

import steprule as sr
from steprule import board, chain
from steprule.backends import numba_cpu, triton_gpu
from steprule.graph.look_ahead import look_ahead
from steprule.optim.options import Options
from steprule.optim.prepared import seen
from steprule.plan.program import Program, lower
from steprule.plan.schedule import schedule
from steprule.plan.storage import layout
from steprule.rule import Formula, Transform
from steprule.version import __version__
from steprule.zoo import adam, adaptive, descent, factored, free, papers

pytestmark = pytest.mark.null

GOLDEN = Path(__file__).parent / "golden"
ZOO = Path(board.__file__).parent
LINES = {line.strip() for path in ZOO.glob("*.py") for line in path.read_text(encoding="utf-8").splitlines()}
"""Of all rules."""


FEW_BITS: dict[str, tuple[str, dict[str, Any]]] = {
    "8bit": ("float32", {"state": "8bit"}),
    "seven_bytes": ("bfloat16", {"state": "8bit", "rounding": "compensated8"}),
}
"""Parameters and options of kernels beside those in float32, by what their names end in."""


def programs() -> dict[str, Formula]:
    """List rules of the zoo, one clipping in front of one of them, and some with state of few bits.

    There are none of `zoo.matrices`, whose GPU kernels nobody has compiled for the record.
    """
    found: dict[str, Formula] = {}
    for module in (board, descent, adaptive, adam, papers, free):
        family = module.__name__.rpartition(".")[2]
        for name, value in sorted(vars(module).items()):
            alone = isinstance(value, Formula) and not isinstance(value, Transform) and value.name == name
            if alone:
                found[f"{family}.{name}"] = value
    of_rows = [factored.adafactor, factored.adafactor_of_vectors, factored.adam_mini, factored.came, factored.sm3]
    found |= {f"factored.{rule.name}": rule for rule in of_rows}
    found["clip_global_norm.adam"] = chain(sr.clip_global_norm(max_norm=1.0), adam.adam)
    narrow = [("adam.adam", "8bit"), ("papers.lion", "8bit"), ("clip_global_norm.adam", "seven_bytes")]
    return found | {f"{name}.{options}": found[name] for name, options in narrow}


KERNELS = {"numba_cpu": numba_cpu.CpuKernel, "triton_gpu": triton_gpu.TritonKernel}


def lowered(program: Formula, kind: str) -> Program:
    """Return what is written down of a rule."""
    dtype, options = FEW_BITS.get(kind, ("float32", {}))
    paths, own = look_ahead(program.graph), Options(**options)
    graph = seen(paths.closure_free if paths else program.graph, own)
    return lower(schedule(graph), layout(graph, dtype, own.rounding, own.state))


def texts(name: str) -> dict[str, str]:
    """Return the module of a rule from every backend that writes one, whatever the version."""
    program = lowered(programs()[name], name.rpartition(".")[2])
    written = {backend: make(program).source for backend, make in KERNELS.items() if not make.dialect.lacks(program)}
    return {backend: text.replace(f"steprule {__version__};", "steprule;") for backend, text in written.items()}


@pytest.mark.parametrize("name", programs())
def test_the_kernels_of_the_zoo_are_those_that_were_committed(name: str) -> None:
    for backend, text in texts(name).items():
        assert (GOLDEN / backend / f"{name}.py").read_text(encoding="utf-8") == text
        quoted = {line.strip()[2:] for line in text.splitlines() if line.strip().startswith("# ")}
        assert quoted & LINES, "each carries the rule's lines"


def test_no_golden_kernel_is_of_a_rule_that_has_gone() -> None:
    for backend in KERNELS:
        assert {path.stem for path in (GOLDEN / backend).glob("*.py")} == {n for n in programs() if backend in texts(n)}
    assert {path.name for path in GOLDEN.iterdir() if not path.name.startswith("export_")} == set(KERNELS)


def _write_anew() -> None:
    """Write every kernel, drop those of rules that have gone, and print what changed."""
    new = {Path(backend) / f"{name}.py": text for name in programs() for backend, text in texts(name).items()}
    old = {
        path.relative_to(GOLDEN): path.read_text(encoding="utf-8")
        for kind in KERNELS
        for path in (GOLDEN / kind).glob("*.py")
    }
    changed = [name for name in sorted(new.keys() | old.keys()) if new.get(name) != old.get(name)]
    for name in changed:
        before, after = old.get(name, "").splitlines(), new.get(name, "").splitlines()
        print("\n".join(difflib.unified_diff(before, after, f"before/{name}", f"after/{name}", lineterm="", n=1)))
        path = GOLDEN / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in new:
            path.write_text(new[name], encoding="utf-8")
        else:
            path.unlink()
    print(f"{len(changed)} of {len(new)} kernels changed")


if __name__ == "__main__":
    _write_anew()
