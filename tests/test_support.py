"""What runs where: every method of the board in every dtype, and every host with tests, as the tables say.

`python tests/test_support.py` writes the tables of docs/understand/support.md; a test fails when they are not so.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import steprule as sr
from steprule.graph.evaluate import evaluate

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "understand" / "support.md"
METHODS = ["gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"]
CLIPS = {"clip_norm": sr.board.clip_norm, "clip_component": sr.board.clip_component,
         "clip_global_norm": sr.clip_global_norm, "clip_value": sr.clip_value}  # fmt: skip
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}
NAMES = {"numba_cpu": "kernel", "eager": "eager"}


def _rows() -> dict[str, sr.Optimizer]:
    rules = {f"`board.{name}`": getattr(sr.board, name) for name in METHODS}
    chains = {f"`{name}` + any": sr.chain(clip, sr.board.adam) for name, clip in CLIPS.items()}
    return rules | chains


def supported(program: sr.rule, dtype: torch.dtype) -> str:
    """Take a step, hold it against the interpreter, and name what ran it; raise if it is wrong."""
    generator = torch.Generator().manual_seed(3)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in [(40,), (3, 5)]]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
    arrays = [{"theta": p.detach().double().numpy(), "g": p.grad.double().numpy()} for p in parameters]
    for array in arrays:
        array |= {slot.name: np.zeros_like(array["theta"]) for slot in program.graph.slots}
    numbers = [{hyper.name: hyper.value for hyper in program.graph.hypers}] * 2
    truth = evaluate(program.graph, arrays, numbers)
    optimizer = program.optimizer(parameters)
    optimizer.step()
    with optimizer.at_iterate():
        for parameter, new in zip(parameters, truth, strict=True):
            assert np.allclose(
                parameter.detach().double().numpy(), new["theta"], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
            )
    return NAMES[sr.explain(optimizer).backend]


def matrix() -> str:
    """Return the page's support matrix, every cell of it just tried."""
    dtypes = list(TOLERANCE)
    head = "| on the CPU | " + " | ".join(str(dtype).removeprefix("torch.") for dtype in dtypes) + " |"
    rows = [f"| {name} | " + " | ".join(supported(p, dtype) for dtype in dtypes) + " |" for name, p in _rows().items()]
    return "\n".join([head, "|---" * (len(dtypes) + 1) + "|", *rows])


def hosts() -> str:
    """Return the page's table of hosts: what each module of tests/hosts says it shows, and with which version."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    rows: list[str] = []
    for path in sorted((ROOT / "tests" / "hosts").glob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        (name,) = re.findall(r'pytest\.mark\.host\("(.+?)"\)', text)
        needs = re.findall(r'importorskip\("([\w-]+)', text)
        package = needs[0] if needs else "torch"
        told = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0].partition(": ")[2]
        rows.append(f"| {name} | {package} {pins[package]} | {told.rstrip('.')} |")
    return "\n".join(["| in | tested with | what is shown |", "|---|---|---|", *sorted(rows, key=str.lower)])


TABLES: dict[str, Callable[[], str]] = {"support": matrix, "hosts": hosts}


def _around(text: str, name: str) -> tuple[str, str, str]:
    """Cut a document before and after the table of a name."""
    before, begin, rest = text.partition(f"<!-- {name}:begin -->")
    table, end, after = rest.partition(f"<!-- {name}:end -->")
    return before + begin, table, end + after


@pytest.mark.cpu
@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_what_was_just_tried(name: str) -> None:
    assert _around(PAGE.read_text(encoding="utf-8"), name)[1].strip() == TABLES[name]()


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        before, _, after = _around(text, name)
        text = f"{before}\n\n{table()}\n\n{after}"
    PAGE.write_text(text, encoding="utf-8")
