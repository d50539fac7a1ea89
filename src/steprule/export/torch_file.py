"""A rule as a torch optimiser in one file, which imports torch alone."""

from __future__ import annotations

from .header import header
from .subject import Subject


def torch_file(subject: Subject) -> str:
    """Return the file of a subject in torch."""
    return f'"""{header(subject)}\n"""\n\nimport torch\n\n\nclass {subject.name}(torch.optim.Optimizer):\n    ...\n'


__all__ = ["torch_file"]
