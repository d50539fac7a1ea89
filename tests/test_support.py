"""What runs where: every method of the board in every dtype, checked, and written into README's matrix.

`python tests/test_support.py` writes the matrix; the test fails when README says something else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import steprule as sr
from steprule.graph.evaluate import evaluate

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- support:begin -->", "<!-- support:end -->"
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
    """Return README's support matrix, every cell of it just tried."""
    dtypes = list(TOLERANCE)
    head = "| on the CPU | " + " | ".join(str(dtype).removeprefix("torch.") for dtype in dtypes) + " |"
    rows = [f"| {name} | " + " | ".join(supported(p, dtype) for dtype in dtypes) + " |" for name, p in _rows().items()]
    return "\n".join([head, "|---" * (len(dtypes) + 1) + "|", *rows])


@pytest.mark.cpu
def test_readme_shows_the_support_matrix_that_was_just_tried() -> None:
    text = README.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip() == matrix()


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    README.write_text(f"{before}\n\n{matrix()}\n\n{after}", encoding="utf-8")
