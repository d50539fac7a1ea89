"""A rule as one file of Triton: its kernels, and a torch optimiser that launches them."""

from __future__ import annotations

import re

from ..errors import BackendError
from .header import LONGEST, docstring, header
from .subject import Subject
from .triton_kernels import FileKernels
from .triton_launcher import constants, optimizer_class
from .triton_parts import Parts, parts_of
from .triton_words import LIBRARY, needed


def triton_file(subject: Subject) -> str:
    """Return the file of a subject in Triton, for parameters of the dtype that its optimiser has.

    Raises `BackendError` for what is more than one launch a pass over elements: several rules, functions of matrices,
    numbers a row or column, slots of 8 bits, a guard, and what takes its gradient elsewhere than where it is.
    """
    parts = parts_of(subject)
    text = _written(parts, told=True)
    if text.count("\n") > LONGEST:
        text = _written(parts, told=False)
    lines = text.count("\n")
    if lines > LONGEST:
        raise BackendError(
            f"`{subject.name}` would be {lines} lines of Triton, and a file has {LONGEST} at most",
            where="  export to triton",
            fix='export it to="torch", or use the library, whose kernels have no such limit',
        )
    return text


def _written(parts: Parts, *, told: bool) -> str:
    """Return the text; what its small functions do is told or left out."""
    kernels = parts.kernels.text().rstrip()
    if not told:
        kernels = re.sub(r"\n +#.*", "", kernels)
    above = needed(kernels, told=told)
    imports = ["import torch", "import triton", "import triton.language as tl"]
    imports += [LIBRARY] * any("libdevice." in part for part in above)
    blocks = ["\n".join(constants(parts)), *_spaced(above), kernels, *optimizer_class(parts)]
    words = header(parts.subject, notes=_notes(parts), whole=not told)
    head = f"{docstring(words)}\n\n" + "\n".join(imports)
    text = f"{head}\n\n" + "\n\n\n".join(blocks) + "\n"
    return f"# ruff: noqa: PLR0124\n{text}" if re.search(r"(?<![.\w])(\w+) [!=]= \1(?![.\w])", text) else text


def _spaced(above: list[str]) -> list[str]:
    """Put assignments, which stand in neighbouring lines, together."""
    found: list[str] = []
    for part in above:
        if found and not part.startswith("@") and not found[-1].startswith("@"):
            found[-1] += f"\n{part}"
        else:
            found.append(part)
    return found


def _notes(parts: Parts) -> list[str]:
    """Say what the file takes, and what it does otherwise than the library."""
    layout = parts.program.layout
    slots = ", ".join(f"{name} in {form.name}" for name, form in layout.slots)
    told = [f"Parameters and gradients are {layout.parameter.name}, on one GPU, contiguous{slots and f'; {slots}'}."]
    if any(own.graph.looks_ahead for own in parts.subject.formulas):
        told.append(
            "Between steps the stored parameters are the point where the gradient is wanted, also for closures."
        )
    if parts.watched:
        told.append("What the rule watches is left out.")
    return told


__all__ = ["FileKernels", "triton_file"]
