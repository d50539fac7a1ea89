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
    """Say what is wrong, where, and what to do; the base of every error the package raises on purpose.

    >>> import steprule as sr
    >>> try:
    ...     sr.board.adam(lr=-1.0)
    ... except sr.errors.StepruleError as error:
    ...     print(error.what, error.fix, sep="; ")
    `lr` of `adam` is -1.0, outside its legal range [0, ∞); give a finite number in [0, ∞)
    """

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
    """A rule or transform cannot be read as a formula.

    >>> import steprule as sr
    >>> sr.explain("adam")
    Traceback (most recent call last):
    steprule.errors.RuleError: 'adam' is no rule, chain, transform or optimiser
    help: explain(board.adam)
    """


class HyperparameterError(StepruleError, ValueError):
    """A hyperparameter is missing, unknown, or out of its declared range.

    >>> import steprule as sr
    >>> sr.board.adam(lr=-1.0)
    Traceback (most recent call last):
    steprule.errors.HyperparameterError: `lr` of `adam` is -1.0, outside its legal range [0, ∞)
    help: give a finite number in [0, ∞)
    """


class ArgumentError(StepruleError, TypeError):
    """An optimiser's class was called with arguments that it does not take, or without one that it needs.

    >>> import torch, steprule as sr
    >>> sr.optim.AdamW(torch.nn.Linear(2, 1).parameters(), learning_rate=1e-3)
    Traceback (most recent call last):
    steprule.errors.ArgumentError: AdamW: got an unexpected keyword argument 'learning_rate'
    help: did you mean lr?
    """


class GraphError(StepruleError, AssertionError):
    """A graph broke one of its own laws: a defect of the package or of a hand-built graph.

    >>> from dataclasses import replace
    >>> import steprule as sr
    >>> from steprule.graph.verify import verify
    >>> verify(replace(sr.board.gd.graph, hypers=()))
    Traceback (most recent call last):
    steprule.errors.GraphError: gd: hyperparameter `lr` is not declared
    hyper('lr')
    """


class ParameterError(StepruleError, ValueError):
    """A parameter or its gradient cannot be updated as it is; nothing was written.

    >>> import torch, steprule as sr
    >>> one = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    >>> one.grad = torch.ones_like(one)
    >>> sr.optim.SGD([one]).step()
    Traceback (most recent call last):
    steprule.errors.ParameterError: the parameter is torch.complex64, no real floating-point type
      parameter 0 of group 0: shape (2,), torch.complex64, on cpu
    help: optimise torch.view_as_real(p), or leave it out
    """


class NonFiniteError(StepruleError, ArithmeticError):
    """A gradient holds NaN or infinity, and the optimiser has nonfinite="raise"; nothing was written.

    >>> import torch, steprule as sr
    >>> one = torch.nn.Parameter(torch.ones(2))
    >>> one.grad = torch.tensor([1.0, float("nan")])
    >>> sr.optim.SGD([one], nonfinite="raise").step()
    Traceback (most recent call last):
    steprule.errors.NonFiniteError: the gradient of parameter 0 of group 0 is not finite; nothing was updated
      shape (2,)
    help: lower the learning rate, clip, or pass nonfinite="skip" to leave such steps out
    """


class ConvergenceError(StepruleError, ArithmeticError):
    """An implicit step did not find its point; parameters, state and gradients are as they were.

    >>> import torch, steprule as sr
    >>> one = torch.nn.Parameter(torch.ones(1))
    >>> opt = sr.board.nesterov(look_ahead="implicit").optimizer([one], lr=100.0)
    >>> def closure():
    ...     opt.zero_grad()
    ...     loss = (one**2).sum()
    ...     loss.backward()
    ...     return loss
    >>> try:
    ...     opt.step(closure)
    ... except sr.errors.ConvergenceError as error:
    ...     print(error.fix)
    lower lr or raise beta; and let the closure give the same loss at the same point (no dropout)
    """


class StateError(StepruleError, ValueError):
    """Optimiser state does not fit the parameters; nothing was loaded.

    >>> import torch, steprule as sr
    >>> two = sr.optim.Adam([torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)])
    >>> sr.optim.Adam([torch.ones(2, requires_grad=True)]).load_state_dict(two.state_dict())
    Traceback (most recent call last):
    steprule.errors.StateError: the saved groups hold [2] parameters, this optimiser's hold [1]
    help: make the optimiser with the same groups before loading
    """


class DataError(StepruleError, ValueError):
    """A file of data is missing, or is not the one that was published.

    >>> from pathlib import Path
    >>> from steprule.lab.published import mnist
    >>> mnist(Path("nowhere"))
    Traceback (most recent call last):
    steprule.errors.DataError: --data-dir is no folder
    nowhere
    help: give the folder that holds the files
    """


class TaskError(StepruleError, TypeError):
    """A task is unknown, or has a part that cannot be learnt from.

    >>> from steprule.lab.tasks import named
    >>> try:
    ...     named("digit-mlp")
    ... except TaskError as error:
    ...     print(error.fix)
    did you mean digits-mlp or digits? name one of these, or file.py:name or module:name
    """


class BackendError(StepruleError, RuntimeError):
    """A backend cannot run what an option or a call wants of it.

    >>> import torch, steprule as sr
    >>> sr.board.adam.optimizer(torch.nn.Linear(2, 1).parameters(), backend="gpu")
    Traceback (most recent call last):
    steprule.errors.BackendError: there is no backend 'gpu'
    help: use one of numba_cpu, triton_gpu, eager, or None
    """
