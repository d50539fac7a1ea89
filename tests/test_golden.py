"""Generated kernels of the zoo, as they were committed: what changes in them shows, and can be read.

`python tests/test_golden.py` writes tests/golden.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import steprule as sr
from steprule import board, chain
from steprule.backends.triton_gpu import TritonKernel
from steprule.graph.look_ahead import look_ahead
from steprule.plan.schedule import schedule
from steprule.rule import Program, Transform
from steprule.version import __version__
from steprule.zoo import adam, adaptive, descent, papers

pytestmark = pytest.mark.null

GOLDEN = Path(__file__).parent / "golden"


def programs() -> dict[str, Program]:
    """List every rule of the zoo, and one clipping in front of one of them."""
    found: dict[str, Program] = {}
    for module in (board, descent, adaptive, adam, papers):
        family = module.__name__.rpartition(".")[2]
        for name, value in sorted(vars(module).items()):
            if isinstance(value, Program) and not isinstance(value, Transform) and value.name == name:
                found[f"{family}.{name}"] = value
    return found | {"clip_global_norm.adam": chain(sr.clip_global_norm(max_norm=1.0), adam.adam)}


def kernel(program: Program) -> str:
    """Return the GPU module of a rule, whatever the version."""
    paths = look_ahead(program.graph)
    plan = schedule(paths.closure_free if paths else program.graph)
    return TritonKernel(plan, torch.float32).source.replace(f"steprule {__version__};", "steprule;")


@pytest.mark.parametrize("name", programs())
def test_the_kernels_of_the_zoo_are_those_that_were_committed(name: str) -> None:
    text = kernel(programs()[name])
    assert (GOLDEN / f"{name}.py").read_text(encoding="utf-8") == text
    quoted = {line.strip()[2:] for line in text.splitlines() if line.strip().startswith("# return ")}
    assert quoted, "each carries the rule's lines"


def test_no_golden_kernel_is_of_a_rule_that_has_gone() -> None:
    assert {path.stem for path in GOLDEN.glob("*.py")} == set(programs())


if __name__ == "__main__":
    for path in GOLDEN.glob("*.py"):
        path.unlink()
    for name, program in programs().items():
        (GOLDEN / f"{name}.py").write_text(kernel(program), encoding="utf-8")
