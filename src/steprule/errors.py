"""One family of errors, each in three parts: what is wrong, where, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in an author's source something was written; columns count from 0, `end` is exclusive."""

    file: str
    line: int
    text: str
    start: int = 0
    end: int = 0

    def caret(self) -> str:
        """Show the line with a caret under the offending part."""
        place = f'  File "{self.file}", line {self.line}'
        if not self.text.strip():
            return place
        indent = len(self.text) - len(self.text.lstrip())
        start = max(self.start - indent, 0)
        width = max(self.end - self.start, 1) if self.end else len(self.text.strip()) - start
        return f"{place}\n    {self.text.strip()}\n    {' ' * start}{'^' * max(width, 1)}"


class StepruleError(Exception):
    """Say what is wrong, where, and what to do; the base of every error the package raises on purpose."""

    def __init__(self, what: str, *, where: Origin | str | None = None, fix: str = "") -> None:
        self.what = what
        self.where = where.caret() if isinstance(where, Origin) else where or ""
        self.fix = fix
        parts = (what, self.where, f"help: {fix}" if fix else "")
        super().__init__("\n".join(part for part in parts if part))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(kind: type[StepruleError], what: str, where: str, fix: str) -> StepruleError:
    return kind(what, where=where, fix=fix)


class RuleError(StepruleError, TypeError):
    """A rule or transform cannot be read as a formula."""


class HyperparameterError(StepruleError, ValueError):
    """A hyperparameter is missing, unknown, or out of its declared range."""


class ArgumentError(StepruleError, TypeError):
    """An optimiser's class was called with arguments that it does not take, or without one that it needs."""


class GraphError(StepruleError, AssertionError):
    """A graph broke one of its own laws: a defect of the package or of a hand-built graph."""


class ParameterError(StepruleError, ValueError):
    """A parameter or its gradient cannot be updated as it is; nothing was written."""


class NonFiniteError(StepruleError, ArithmeticError):
    """A gradient holds NaN or infinity, and the optimiser has nonfinite="raise"; nothing was written."""


class ConvergenceError(StepruleError, ArithmeticError):
    """An implicit step did not find its point; parameters, state and gradients are as they were."""


class StateError(StepruleError, ValueError):
    """Optimiser state does not fit the parameters; nothing was loaded."""


class DataError(StepruleError, ValueError):
    """A file of data is missing, or is not the one that was published."""


class TaskError(StepruleError, TypeError):
    """A task is unknown, or has a part that cannot be learnt from."""


class BackendError(StepruleError, RuntimeError):
    """A backend cannot run what an option or a call wants of it."""
