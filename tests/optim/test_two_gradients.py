"""Rules with two gradients a step: at θ, and at a point that the first one helps to find (SAM, exact MARS)."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from truth import bits, raw

import steprule as sr
from steprule import board, chain, choice, norm, rule, sqrt
from steprule.errors import HyperparameterError, NonFiniteError, ParameterError, RuleError
from steprule.optim import first_gradients, moves
from steprule.zoo import papers, transforms

pytestmark = pytest.mark.null

SHAPES = [(3,), (2, 2), (), (4,)]
CLIP = sr.clip_global_norm(max_norm=0.5)
SAM = sr.sam(board.momentum, rho=0.3)
ADAPTIVE = sr.sam(board.momentum, rho=0.3, adaptive=True)
MARS = papers.mars_exact(lr=0.1)


def start() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.normal(size=shape) for shape in SHAPES]


def slope(x: list[Any], t: int) -> list[Any]:
    """Return gradients that depend on where they are taken, differently at every step."""
    return [np.cos(t * a) + 2 * a + 0.3 * sum(float(np.sum(b)) for b in x) for a in x]


def length(arrays: list[Any]) -> float:
    return float(np.sqrt(sum(float(np.sum(a * a)) for a in arrays)))


class Run:
    """Some tensors, whose gradients a closure leaves behind; it notes where it was called."""

    def __init__(self, program: Any, *, count: int = len(SHAPES), dtype: Any = torch.float64, **options: Any) -> None:
        self.parameters = [torch.nn.Parameter(torch.tensor(a).to(dtype)) for a in start()[:count]]
        self.optimizer = sr.Optimizer(self.parameters, program, **{"backend": "eager", **options})
        self.t, self.seen = 0, list[list[np.ndarray]]()

    def closure(self) -> torch.Tensor:
        assert torch.is_grad_enabled()
        self.seen.append(self.arrays())
        for p, g in zip(self.parameters, slope(self.arrays(), self.t), strict=True):
            p.grad = torch.tensor(g).to(p.dtype)
        return torch.tensor(float(len(self.seen)))

    def arrays(self) -> list[np.ndarray]:
        return [p.detach().double().numpy().copy() for p in self.parameters]

    def step(self, times: int = 1) -> list[Any]:
        found = []
        for _ in range(times):
            self.t += 1
            found.append(self.optimizer.step(self.closure))
        return found


def agree(run: Run, expected: list[np.ndarray]) -> None:
    for a, b in zip(run.arrays(), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def by_hand(steps: int, *, adaptive: bool = False, max_norm: float | None = None, decay: float = 0.0) -> Any:
    """SAM of momentum, as the paper has it: θ̂ = θ + ρ T²g/‖Tg‖, then momentum from θ with the gradient there."""
    x, m = start(), [np.zeros(shape) for shape in SHAPES]
    for t in range(1, steps + 1):
        first = slope(x, t)
        size = [np.abs(a) if adaptive else 1.0 for a in x]
        whole = length([s * g for s, g in zip(size, first, strict=True)])
        second = slope([a + 0.3 * s * s * g / whole for a, s, g in zip(x, size, first, strict=True)], t)
        by = 1.0 if max_norm is None else min(1.0, max_norm / (length(second) + 1e-6))
        m = [0.1 * by * g + 0.9 * b for g, b in zip(second, m, strict=True)]
        x = [a * (1 - 0.1 * decay) - 0.1 * b for a, b in zip(x, m, strict=True)]
    return x


def mars_by_hand(steps: int) -> Any:
    """MARS-AdamW with the true difference: ∇f(xₜ, ξₜ) − ∇f(xₜ₋₁, ξₜ), of one batch."""
    x, before = start(), start()
    m, v = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    for t in range(1, steps + 1):
        g, then = slope(x, t), slope(before, t)
        before = x
        x = list(x)
        for i in range(len(x)):
            c = g[i] + 0.025 * 0.95 / (1 - 0.95) * (g[i] - then[i])
            c = c / max(1.0, length([c]))
            m[i], v[i] = 0.95 * m[i] + 0.05 * c, 0.99 * v[i] + 0.01 * c * c
            x[i] = x[i] - 0.1 * m[i] / (1 - 0.95**t) / (np.sqrt(v[i] / (1 - 0.99**t)) + 1e-8)
    return x


CASES: dict[str, tuple[Any, Any]] = {
    "sam": (SAM, by_hand(5)),
    "adaptive": (ADAPTIVE, by_hand(5, adaptive=True)),
    "clipped behind": (chain(sr.sam(rho=0.3), CLIP, board.momentum), by_hand(5, max_norm=0.5)),
    "clipped before": (chain(CLIP, SAM), by_hand(5, max_norm=0.5)),
    "decayed": (chain(sr.weight_decay(0.2), SAM), by_hand(5, decay=0.2)),
    "mars": (MARS, mars_by_hand(5)),
}  # fmt: skip


def beside(case: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give every parameter as it is after five steps, and as the paper's formula has it."""
    program, expected = CASES[case]
    run = Run(program)
    assert [float(loss) for loss in run.step(5)] == [1, 3, 5, 7, 9]  # the losses at θ itself
    yield from zip(map(torch.tensor, run.arrays()), map(torch.tensor, expected), strict=True)


@pytest.mark.parametrize("case", CASES)
def test_five_steps_are_those_of_the_papers_written_again(case: str) -> None:
    for ours, right in beside(case):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-13)


@pytest.mark.cpu
def test_compiled_kernels_take_the_same_steps_with_several_chunks() -> None:
    """The last element of the last chunk is told by the first gradient there. SAM's kernels are its rule's."""
    runs = [Run(MARS, backend=backend) for backend in ("numba_cpu", "eager")]
    for run in runs:
        run.parameters[0].data = torch.linspace(-1, 1, 40_001, dtype=torch.float64)
        run.step(3)
    agree(runs[0], runs[1].arrays())


@pytest.mark.interp
def test_gpu_kernels_take_the_same_steps() -> None:
    for program in (SAM, MARS):
        run = Run(program, backend="triton_gpu")
        run.step(2)
        agree(run, (by_hand if program is SAM else mars_by_hand)(2))


def test_one_length_is_of_all_groups_and_rules_that_climb() -> None:
    """Two rules, two groups of one: the way of each is a part of one, and a rule that does not climb stays at θ."""
    run = Run(SAM)
    groups = [
        {"params": run.parameters[:1]},
        {"params": run.parameters[1:2], "rule": sr.sam(board.adam, rho=0.3)},
        {"params": run.parameters[2:3], "rule": board.adam},
        {"params": run.parameters[3:], "lr": 0.5},
    ]
    run.optimizer = sr.Optimizer(groups, SAM, backend="eager")
    x = start()
    run.step()
    first = slope(x, 1)
    whole = length([first[0], first[1], first[3]])
    for i, at in enumerate(run.seen[1]):
        np.testing.assert_allclose(at, x[i] + (0.3 * first[i] / whole if i != 2 else 0), rtol=1e-14)


def test_a_rule_that_looks_ahead_may_stand_beside_one_that_climbs() -> None:
    run, alone = Run(SAM, count=2), Run(board.nesterov(lr=0.1), count=2)
    groups = [{"params": run.parameters[:1]}, {"params": run.parameters[1:], "rule": board.nesterov(lr=0.1)}]
    run.optimizer = sr.Optimizer(groups, SAM, backend="eager")
    m = np.zeros((2, 2))
    for _ in range(3):
        x = run.arrays()
        run.step()
        at = run.seen[-1]
        np.testing.assert_allclose(at[1], x[1] - 0.1 * 0.9 * m, rtol=1e-14)
        m = 0.1 * slope(at, run.t)[1] + 0.9 * m
        np.testing.assert_allclose(run.arrays()[1], x[1] - 0.1 * m, rtol=1e-13)
    assert not alone.seen
    for p in run.parameters:
        p.grad = torch.ones_like(p)
    with pytest.raises(HyperparameterError, match="no closure"):
        run.optimizer.step()


def test_the_point_sees_numbers_of_its_own_step() -> None:
    """ρ grows with t, which is counted from 1, and lr is the group's at this step."""

    @rule(evaluate_at=lambda theta, g_theta, *, lr, t: theta + lr * t * g_theta)
    def growing(theta, g, *, lr=0.1, t):
        return theta - 0.01 * g

    run = Run(growing, count=1)
    for t in (1, 2, 3):
        run.optimizer.param_groups[0]["lr"] = 0.1 / t**2
        run.step()
        at, after = run.seen[-2:]
        np.testing.assert_allclose(after[0], at[0] + 0.1 / t * slope(at, t)[0], rtol=1e-14)


def test_a_change_of_sign_or_unit_is_of_both_gradients() -> None:
    """To climb L as SAM descends −L, and with gradients in another unit: neither changes the way's direction."""
    for rate, before in ((-1.0, transforms.maximize), (0.25, transforms.unscale(inverse_scale=4.0))):
        for program in (SAM, MARS):
            plain, changed = Run(program, count=2), Run(chain(before, program), count=2)

            def scaled(run: Run = changed, by: float = rate) -> float:
                run.closure()
                for p in run.parameters:
                    p.grad *= by
                return 0.0

            for _ in range(3):
                plain.step()
                changed.t += 1
                changed.optimizer.step(scaled)
            agree(changed, plain.arrays())


def test_a_rule_that_takes_the_loss_is_told_the_first() -> None:
    @rule
    def told(theta, g, *, lr=0.1, loss):
        return theta - lr * loss * g

    run = Run(sr.sam(told), count=1)
    (loss,) = run.step()
    assert float(loss) == 1.0
    np.testing.assert_allclose(run.arrays()[0], run.seen[0][0] - 0.1 * slope(run.seen[1], 1)[0], rtol=1e-13)


# θ comes back ----------------------------------------------------------------------------------------------


STORED = [("float64", "nearest"), ("bfloat16", "nearest"), ("float16", "stochastic"), ("bfloat16", "compensated")]


@pytest.mark.parametrize(("dtype", "rounding"), STORED)
def test_parameters_come_back_to_theta_bit_for_bit(dtype: str, rounding: str) -> None:
    """The rate is 0 at the second step, so what the update writes is what it found."""
    run = Run(SAM, dtype=getattr(torch, dtype), rounding=rounding, lr=0.1)
    run.step()
    run.optimizer.param_groups[0]["lr"] = 0.0
    before = [raw(p) for p in run.parameters]
    remainders = [raw(own["remainder"]) for own in run.optimizer.state.values() if "remainder" in own]
    run.step()
    assert run.seen[2][0].tolist() != run.seen[3][0].tolist()
    assert [raw(p) for p in run.parameters] == before
    assert [raw(own["remainder"]) for own in run.optimizer.state.values() if "remainder" in own] == remainders


class Stop(BaseException):
    """What nobody catches."""


def failing(run: Run, kind: type[BaseException] | None, call: int, value: float | None) -> Callable[[], Any]:
    calls = [0]

    def closure() -> Any:
        calls[0] += 1
        loss = run.closure()
        if calls[0] == call:
            if kind is not None:
                raise kind
            if value is None:
                run.parameters[-1].grad = torch.zeros(4, dtype=torch.float64).to_sparse()
            else:
                run.parameters[-1].grad[3] = value
        return loss

    return closure


WRONG: dict[str, tuple[type[BaseException] | None, float | None, str]] = {
    "raises": (Stop, None, "propagate"),
    "is interrupted": (KeyboardInterrupt, None, "propagate"),
    "leaves a sparse gradient": (None, None, "propagate"),
    "is NaN in one place, which raises": (None, np.nan, "raise"),
    "is infinite in one place, which skips": (None, np.inf, "skip"),
}


@pytest.mark.parametrize("program", [SAM, MARS, sr.sam(board.sgd)], ids=["sam", "mars", "sgd"])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("why", WRONG)
def test_a_step_that_does_not_happen_leaves_no_trace(why: str, call: int, program: Any) -> None:
    """Neither at the first step, where no state stays, nor later; and the steps that follow are those without it."""
    kind, value, nonfinite = WRONG[why]
    for steps in (0, 2):
        run, other = Run(program, nonfinite=nonfinite), Run(program, nonfinite=nonfinite)
        run.step(steps)
        other.step(steps)
        before, states = bits(run.optimizer), len(run.optimizer.state)
        raised = kind or {"raise": NonFiniteError, "propagate": ParameterError}.get(nonfinite)
        closure = failing(run, kind, call, value)
        if raised is None:
            run.optimizer.step(closure)
        else:
            with pytest.raises(raised):
                run.optimizer.step(closure)
        assert bits(run.optimizer) == before
        assert len(run.optimizer.state) == states
        run.step(2)
        other.step(2)
        assert bits(run.optimizer) == bits(other.optimizer)


@contextmanager
def interrupted(at: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise KeyboardInterrupt twice, from the `at`th write of θ's way there and back on."""
    left = {"before": at, "times": 2}

    def breaking(act: Any) -> Any:
        def do(*args: Any, **keywords: Any) -> Any:
            found = act(*args, **keywords)
            left["before"] -= 1
            if left["before"] <= 0 and left["times"]:
                left["times"] -= 1
                raise KeyboardInterrupt
            return found

        return do

    with monkeypatch.context() as patch:
        patch.setattr(moves.Copy, "put_back", breaking(moves.Copy.put_back))
        patch.setattr(moves._Moving, "store", breaking(moves._Moving.store))
        patch.setattr(first_gradients.FirstGradients, "judge", breaking(first_gradients.FirstGradients.judge))
        patch.setattr(first_gradients.FirstGradients, "forget", breaking(first_gradients.FirstGradients.forget))
        yield


@pytest.mark.parametrize("program", [SAM, MARS], ids=["sam", "mars"])
@pytest.mark.parametrize("at", range(1, 8))
def test_an_interrupt_anywhere_leaves_a_whole_step_or_none(
    at: int, program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (0, 1):
        run, other = Run(program), Run(program)
        run.step(steps)
        other.step(steps)
        before = bits(run.optimizer)
        with interrupted(at, monkeypatch), pytest.raises(KeyboardInterrupt):
            run.step()
        if bits(run.optimizer) == before:
            assert len(run.optimizer.state) == len(other.optimizer.state)
        else:
            other.step()
            assert bits(run.optimizer) == bits(other.optimizer)


# What is kept -----------------------------------------------------------------------------------------------


def test_nothing_of_a_first_gradient_is_kept_and_a_run_goes_on_from_its_checkpoint() -> None:
    run, again = Run(MARS), Run(MARS)
    run.step(3)
    assert all(not own["g_theta"].any() for own in run.optimizer.state.values())
    for p, own in zip(again.parameters, run.parameters, strict=True):
        p.data.copy_(own.detach())
    again.optimizer.load_state_dict(run.optimizer.state_dict())
    again.t = run.t
    for one in (run, again):
        one.step(2)
    assert bits(run.optimizer) == bits(again.optimizer)
    sam = Run(SAM)
    sam.step()
    assert {key for own in sam.optimizer.state.values() for key in own} == {"m"}  # as momentum's own


def test_narrow_state_keeps_what_a_first_gradient_is_exactly() -> None:
    run = Run(MARS, dtype=torch.bfloat16, state="bfloat16", lr=0.0)
    run.step(2)
    kinds = {name: own.dtype for name, own in run.optimizer.state[run.parameters[0]].items()}
    assert kinds["g_theta"] is kinds["previous"] is torch.float32


def test_what_is_stored_is_theta_so_its_stalling_is_watched() -> None:
    run = Run(SAM, dtype=torch.bfloat16, watch=["stalled"], lr=1e-9)
    run.step()
    assert run.optimizer.gauges()["stalled"] == 1


def test_a_gradient_may_be_absent_in_either_evaluation() -> None:
    for program in (SAM, MARS):
        for absent in (1, 2):
            run, calls = Run(program, count=2), [0]

            def closure(run: Run = run, calls: list[int] = calls, absent: int = absent) -> None:
                calls[0] += 1
                run.closure()
                if calls[0] == absent:
                    run.parameters[1].grad = None

            x, run.t = run.arrays(), 1
            run.optimizer.step(closure)
            climbed, moved = ((a[1] != b[1]).any() for a, b in ((run.seen[1], x), (run.arrays(), x)))
            assert climbed == (absent == 2 and program is SAM)
            assert moved == (absent == 1)
            assert (run.parameters[1] in run.optimizer.state) == moved


# What is refused --------------------------------------------------------------------------------------------


def test_without_a_closure_it_is_refused_with_the_lines_to_write() -> None:
    run = Run(SAM)
    for p in run.parameters:
        p.grad = torch.ones_like(p)
    before = bits(run.optimizer)
    for step in (run.optimizer.step, run.optimizer.step_in_backward):
        with pytest.raises(HyperparameterError, match="second gradient at another point") as caught:
            step()
        assert "loss.backward(); return loss" in caught.value.fix
        assert "optimizer.step(closure)" in caught.value.fix
    assert bits(run.optimizer) == before
    assert not run.optimizer.state


def test_a_group_that_comes_after_step_in_backward_is_refused_before_anything_is_written() -> None:
    run = Run(board.sgd, count=2)
    optimizer = sr.Optimizer(run.parameters[:1], board.sgd, backend="eager")
    optimizer.step_in_backward()
    optimizer.add_param_group({"params": run.parameters[1:], "rule": sr.sam(board.sgd)})
    before = bits(optimizer)
    with pytest.raises(HyperparameterError, match="second gradient"):
        sum(p.sum() for p in run.parameters).backward()
    assert bits(optimizer) == before


@pytest.mark.parametrize("make", [sr.optim.AdamW, lambda params, clip: sr.Optimizer(params, board.adam, clip=clip)])
def test_a_point_is_no_clipping(make: Any) -> None:
    with pytest.raises(HyperparameterError, match="which says where the gradient is taken") as caught:
        make([torch.nn.Parameter(torch.ones(2))], clip=sr.sam)
    assert "sr.sam(" in caught.value.fix


def refused() -> dict[str, tuple[Callable[[], Any], str, str]]:
    """List formulas that mean nothing: how they are made, what is wrong, and what to do."""

    @rule(evaluate_at=lambda theta, g, *, rho: theta + rho * g / norm(g))
    def bare(theta, g, *, lr=0.1, rho=0.05):
        return theta - lr * g

    @rule(evaluate_at=lambda w, new_w: 2 * w - new_w)
    def ahead_of_itself(w, grad, *, lr=0.1):
        return w - lr * grad

    @rule(evaluate_at=lambda new_theta: new_theta)
    def implicit(theta, g, *, lr=0.1, g_theta):
        return theta - lr * (g + g_theta)

    @rule
    def nowhere_else(theta, g, *, lr=0.1, g_theta):
        return theta - lr * g_theta

    @rule(evaluate_at=lambda theta, g_theta, *, loss: theta + loss * g_theta)
    def lossy(theta, g, *, lr=0.1, loss):
        return theta - lr * loss * g

    @rule
    def inlining(theta, g, previous, *, lr=0.1):
        return papers.mars_exact(theta, g, g, g, previous)[0], previous

    return {
        "g in the point": (lambda: bare.graph, "the gradient at the point that it gives", "ask for `g_theta`"),
        "the end in the point": (lambda: ahead_of_itself.graph, "depends on where the step ends", "`grad_w`"),
        "two ends": (
            lambda: implicit.graph,
            "takes its gradient where its step ends, and the one at",
            "leave `g_theta`",
        ),
        "no point": (lambda: nowhere_else.graph, "`g_theta` is `g` itself", "evaluate_at=lambda theta"),
        "the loss in the point": (lambda: lossy.graph, "made of the loss", "in the update"),
        "two points": (lambda: sr.sam(board.nesterov), "both say where the gradient is taken", "leave one of them out"),
        "two climbs": (lambda: sr.sam(sr.sam(board.sgd)), "`sam` and `sam` both say", "sam(board.adam)"),
        "inlined without": (lambda: inlining.graph, "no value for `g_theta`", "pass g_theta="),
    }


@pytest.mark.parametrize("case", refused())
def test_what_means_nothing_is_refused_at_its_line(case: str) -> None:
    make, what, fix = refused()[case]
    with pytest.raises((RuleError, HyperparameterError)) as caught:
        make()
    assert what in caught.value.what
    assert fix in caught.value.fix
    if "inlined" not in case:
        assert "line" in caught.value.where or ".py" in caught.value.where


# How it reads -----------------------------------------------------------------------------------------------


def test_it_reads_as_in_the_papers() -> None:
    told = sr.explain(SAM)
    assert told.formula.splitlines()[:2] == ["g_θ = ∇L(θₜ₋₁)", "g = ∇L(θₜ₋₁ + ρ g_θ / (‖g_θ‖ + 1e-30))"]
    assert (
        r"g &= \nabla L\left(\theta_{t-1} + \frac{\rho \, g_{\theta}}{\left\Vert g_{\theta} \right\Vert" in told.latex
    )
    assert sr.explain(MARS).formula.splitlines()[:2] == ["g_θ = ∇L(θₜ₋₁)", "g = ∇L(previousₜ₋₁)"]
    assert "g_thetaₜ" not in str(sr.explain(MARS))
    assert sr.explain(sr.sam).formula.splitlines() == told.formula.splitlines()[:2]
    # SAM's kernel is its rule's; MARS reads θ, both gradients and three slots, after a pass over both gradients.
    assert told.bytes_per_parameter == sr.explain(board.momentum).bytes_per_parameter
    assert sr.explain(MARS).bytes_per_parameter == 8 + 36
    moved = ["also moves parameters" in str(sr.explain(one)) for one in (SAM, MARS, board.nesterov, board.momentum)]
    assert moved == [True, True, False, False]


def test_names_and_variants_are_the_authors_own() -> None:
    @sr.transform(evaluate_at=lambda w, grad_w, k, *, rho, way: w + rho * (grad_w if way == "up" else -grad_w) + 0 * k)
    def climbing(w, grad, k, *, rho=0.1, way=choice("up", "down")):
        return grad, k + 1

    @rule
    def own(x, dx, k, *, lr=0.1, rho=2.0):
        return x - lr * rho * dx / sqrt(k + 1), k + 1

    run = Run(chain(climbing(way="down"), own), count=1)
    run.step()
    graph = run.optimizer.program.graph
    assert (graph.first, [slot.name for slot in graph.slots]) == ("dx_x", ["k", "climbing_k"])
    assert sorted(run.optimizer.param_groups[0]) == ["climbing_rho", "lr", "params", "rho"]
    np.testing.assert_allclose(run.seen[1][0], run.seen[0][0] - 0.1 * slope(run.seen[0], 1)[0], rtol=1e-14)
    again = pickle.loads(pickle.dumps(sr.sam(board.adam(lr=0.5), rho=0.7)))  # noqa: S301
    assert (again.name, again.hypers["rho"].value, again.hypers["lr"].value) == ("sam+adam", 0.7, 0.5)
