"""The steps of exported torch files whose gradient is taken elsewhere: at a look-ahead point, twice, or at the end."""

from __future__ import annotations

from ..graph.look_ahead import LookAhead, to_end
from ..graph.node import Node
from ..graph.twice import Twice
from ..plan.program import lowered
from ..plan.schedule import schedule
from .torch_methods import FileRule, labels
from .torch_update import Function, written

_TENSORS = """\
    def _tensors(self):
        \"\"\"List trainable parameters with their states and groups, and those whose state is new.\"\"\"
        own = [(p, group) for group in self.param_groups for p in group["params"] if p.requires_grad]
        new = [p for p, _ in own if not self.state.get(p)]
        return [(p, self._state(p, group), group) for p, group in own], new
"""

_AHEAD = """\
    @torch.no_grad()
    def step(self, closure=None):
        \"\"\"Update every parameter that has a gradient; return the closure's value, if one is given.

        A closure is evaluated at the look-ahead point. Without one, the stored parameters are that point: eval() puts
        the iterate in their place, and train() the point again.
        \"\"\"
        if closure is None:
            self._update({name})
            return None
        tensors, new = self._tensors()
        points = [(p, p.clone()) for p, state, _ in tensors if state["ahead"] > 0]
        iterates = []
        try:
            for p, state, group in tensors:
                if state["ahead"] > 0:
                    {name}_to_iterate(p, None, state, group)
            iterates = copies(tensors)
            for p, state, group in tensors:
                {name}_to_point(p, None, state, group)
            with torch.enable_grad():
                loss = closure()
            put_back(iterates)
            self._update({name}_exact)
        finally:
            put_back(copy for copy in iterates if copy[0].grad is None)
            put_back(copy for copy in points if self.state[copy[0]]["ahead"] > 0)
            for p in new:
                if p.grad is None:
                    del self.state[p]
        return loss

    @torch.no_grad()
    def eval(self):
        \"\"\"Hold the iterate in the parameters, for evaluation.\"\"\"
        for p, state, group in self._tensors()[0]:
            if state["ahead"] > 0:
                {name}_to_iterate(p, None, state, group)
                state["ahead"].zero_()

    @torch.no_grad()
    def train(self):
        \"\"\"Hold the point in the parameters where the next gradient is taken.\"\"\"
        for p, state, group in self._tensors()[0]:
            if state["ahead"] == 0:
                {name}_back_to_point(p, None, state, group)
                state["ahead"].fill_(1)
"""

_TWICE = """\
    @torch.no_grad()
    def step(self, closure=None):
        \"\"\"Evaluate the closure at the parameters, then at the second point; return the first value.\"\"\"
        if closure is None:
            raise RuntimeError("this rule takes two gradients, and step() was given no closure: call step(closure)")
        with torch.enable_grad():
            loss = closure()
        tensors = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        tensors = [(p, p.grad, self._state(p, group), group) for p, group in tensors]
        iterates = copies(tensors)
        try:
{given}{move}
            with torch.enable_grad():
                closure()
        finally:
            put_back(iterates)
        self._update({name})
{empty}        return loss
"""

_IMPLICIT = """\
    @torch.no_grad()
    def step(self, closure=None):
        \"\"\"Find where the step ends, by fixed-point iteration; the closure must give one loss a point.\"\"\"
        if closure is None:
            raise RuntimeError("the gradient is taken where the step ends: call step(closure)")
        tensors, new = self._tensors()
        iterates = copies(tensors)
        most = min(int(group["max_eval"]) for group in self.param_groups)
        best, since, seen = math.inf, 0, 0
        try:
            gradients = [torch.zeros_like(p) for p, *_ in tensors]
            while True:
                put_back(iterates)
                for (p, state, group), gradient in zip(tensors, gradients, strict=True):
                    if gradient is not None:
                        {name}_end(p, gradient, state, group)
                if seen:
                    by, allowed = moved(points, iterates, [float(group["tolerance"]) for *_, group in tensors])
                    finite = all(g.isfinite().all() for g in gradients if g is not None)
                    if by <= allowed < math.inf or (seen == 1 and not finite):
                        break
                    since = 0 if by < best else since + 1
                    if since >= 5 or seen >= most or not math.isfinite(by):
                        raise RuntimeError(f"the point where the step ends was not found in {{seen}} evaluations")
                    best = min(best, by)
                points, seen = copies(tensors), seen + 1
                with torch.enable_grad():
                    loss = closure()
                gradients = [p.grad for p, *_ in tensors]
        finally:
            put_back(iterates)
            for p in new:
                del self.state[p]
        self._update({name})
        return loss
"""


def pointed(method: FileRule) -> str:
    """Return the step of a rule whose gradient is taken elsewhere, with what it needs; "" for any other."""
    if method.implicit:
        return _IMPLICIT.format(name=method.name) + "\n" + _TENSORS
    if isinstance(method.paths, LookAhead):
        return _AHEAD.format(name=method.name) + "\n" + _TENSORS
    if isinstance(method.paths, Twice):
        asks = moves(method)[f"{method.name}_to_point"].asks
        call = f"{method.name}_to_point(p, gradient, state, group)"
        each = "for p, gradient, state, group in tensors"
        move = (
            f"            together([{call} {each}], totals)" if asks else f"            {each}:\n                {call}"
        )
        first = method.paths.given
        given = f'            for _, gradient, state, _ in tensors:\n                state["{first}"].copy_(gradient)\n'
        empty = f'        for _, _, state, _ in tensors:\n            state["{first}"].zero_()\n'
        return _TWICE.format(name=method.name, move=move, given=given * bool(first), empty=empty * bool(first))
    return ""


def moves(method: FileRule, names: dict[Node, str] | None = None) -> dict[str, Function]:
    """Return the functions that move a parameter to another point, and the update from there, by name."""
    paths, name = method.paths, method.name
    if method.implicit:
        program = lowered(schedule(to_end(method.kernels.formula.graph)))
        return {f"{name}_end": written(f"{name}_end", program, method.reading, labels([program.plan]), moves=1)}
    if isinstance(paths, LookAhead):
        programs = {way: lowered(schedule(getattr(paths, way))) for way in ("to_point", "to_iterate", "back_to_point")}
        found = {f"{name}_{way}": written(f"{name}_{way}", own, method.reading, labels([own.plan]), moves=0)
                 for way, own in programs.items()}  # fmt: skip
        exact = method.program(paths.exact)
        known = labels([exact.plan]) if names is None else {**labels([exact.plan]), **names}
        return found | {f"{name}_exact": written(f"{name}_exact", exact, method.reading, known)}
    if isinstance(paths, Twice):
        program = lowered(schedule(paths.to_point))
        return {
            f"{name}_to_point": written(f"{name}_to_point", program, method.reading, labels([program.plan]), moves=1)
        }
    return {}


__all__ = ["moves", "pointed"]
