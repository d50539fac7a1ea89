"""Refusals while parameters are not where steps leave them: inside `at_iterate`, and while a closure looks ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import torch

from ..errors import ParameterError
from ..locks import lock
from .implicit import Implicit
from .points import Points

_BLOCK = "at_iterate()"


class Away(torch.optim.Optimizer):
    """An optimiser that knows whether its parameters are at another point."""

    _points: Points | Implicit | None

    def _at_home(self) -> None:
        """Note that parameters are where steps leave them."""
        self._busy = lock()
        self._inside: list[str] = []
        self._put_back: Callable[[], None] | None = None
        self._evaluating: AbstractContextManager[None] | None = None

    @contextmanager
    def at_iterate(self) -> Generator[None]:
        """Hold θ itself in the parameters inside a `with` block, e.g. for evaluation.

        >>> import torch, steprule as sr
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = sr.board.nesterov.optimizer(model.parameters(), lr=0.1)
        >>> with opt.at_iterate():
        ...     prediction = model(torch.ones(1, 2))

        Only rules with a look-ahead, stepped without a closure, store another point; for all others
        nothing moves. Each parameter's state says which point is stored: `ahead` is 1 for the
        look-ahead point. At the end of the outermost block parameters are put back, bit for bit; one that was written
        inside, or whose slots were, keeps what was written, and `ahead` stays 0. Inside, `step`, `load_state_dict` and
        `add_param_group` raise `ParameterError`.
        """
        with self._busy:
            if any(place != _BLOCK for place in self._inside):
                raise self._misplaced("at_iterate()")
            if self._points is not None and not self._inside:
                self._put_back = self._points.to_iterate(self)
            self._inside.append(_BLOCK)
        try:
            yield
        finally:
            with self._busy:
                self._inside.remove(_BLOCK)
                put_back = self._put_back
                if not self._inside and put_back is not None:
                    self._put_back = None
                    put_back()

    def eval(self) -> None:
        """Hold θ itself in the parameters until `train()`: `at_iterate` for loops that have two such calls.

        >>> import torch, steprule as sr
        >>> opt = sr.schedule_free_adamw.optimizer(torch.nn.Linear(2, 1).parameters())
        >>> opt.eval()
        >>> opt.train()

        Rules without a look-ahead have no other point, and nothing happens.
        """
        if self._points is not None and self._evaluating is None:
            evaluating = self.at_iterate()
            evaluating.__enter__()
            self._evaluating = evaluating

    def train(self) -> None:
        """Hold the point in the parameters where the next gradient is taken, after `eval()` bit for bit as it was.

        A checkpoint or a copy that was made after `eval()` holds θ, and so do steps with closures: they move, too.
        """
        with self._busy:
            evaluating, self._evaluating = self._evaluating, None
            if evaluating is not None:
                evaluating.__exit__(None, None, None)
            if self._points is not None and not self._inside:
                self._points.to_point(self)

    @contextmanager
    def _away(self, place: str) -> Generator[None]:
        """Note that parameters are not where steps leave them."""
        self._inside.append(place)
        try:
            yield
        finally:
            self._inside.remove(place)

    def _misplaced(self, action: str) -> ParameterError:
        return ParameterError(
            f"{action} inside {self._inside[-1]}",
            where="  parameters are not where steps leave them, and go back when it ends",
            fix="call train() first"
            if self._evaluating is not None
            else "leave the `with` block first"
            if self._inside[-1] == _BLOCK
            else f"call {action} after step(closure)",
        )
