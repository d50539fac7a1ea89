"""One number for all tensors: the same in every group, type and bucket, written once a step, kept by every host."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from truth import bits, fill_gradients, make

import steprule as sr
from steprule import errors, rule, slot
from steprule.backends import lots
from steprule.optim.global_slots import unite
from steprule.zoo import free

pytestmark = pytest.mark.cpu

WAYS = [None, "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)]
SHAPES = [(3,), (2, 2), (), (5,)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float32]


@rule
def pacing(theta, g, way=slot(rank="global", init=0.5), steps=slot(rank="global"), k=slot(rank="tensor"), *, lr=0.1,
           beta=0.9):  # fmt: skip
    """What is written uses what was: `k` the old `steps`, `way` the old `steps`, and each other's sums."""
    new = beta * way + steps * sr.global_sum(lr * g * g)
    return theta - lr * new * g, new, steps + 1, k + steps


class Plain:
    """The same, written again, in float64."""

    def __init__(self, parameters: list[torch.nn.Parameter], rates: list[float]) -> None:
        self.x, self.rates = [p.detach().double().clone() for p in parameters], rates
        self.k = [0.0] * len(parameters)
        self.way, self.steps = 0.5, 0

    def step(self, gradients: list[torch.Tensor | None]) -> None:
        found = list(zip(gradients, self.rates, strict=True))
        self.way = 0.9 * self.way + self.steps * sum(
            float((r * g.double() ** 2).sum()) for g, r in found if g is not None
        )
        for i, (g, rate) in enumerate(found):
            if g is not None:
                self.x[i] = self.x[i] - rate * self.way * g.double()
                self.k[i] += self.steps
        self.steps += 1


def pace(
    backend: str | None, only: torch.dtype | None = None, **own: Any
) -> tuple[list[torch.nn.Parameter], sr.Optimizer]:
    """Make an optimiser of tensors of several types; where kernels are compiled, of two, or `only` one."""
    if backend == "triton_gpu":
        pytest.importorskip("triton")
    dtypes = [only or (torch.float32 if dtype == torch.bfloat16 and backend is None else dtype) for dtype in DTYPES]
    parameters = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape, dtype in zip(SHAPES, dtypes, strict=True)]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:3], "lr": 0.25}]
    return parameters, pacing.optimizer(groups, backend=backend, **own)


def cells(optimizer: sr.Optimizer, name: str) -> list[torch.Tensor]:
    return [state[name] for state in optimizer.state.values()]


@pytest.mark.parametrize("backend", WAYS)
def test_groups_types_absent_gradients_and_late_tensors_share_one_number(backend: str | None) -> None:
    parameters, optimizer = pace(backend)
    plain = Plain(parameters, [0.1, 0.1, 0.25, 0.5])
    for t in range(6):
        if t == 3:
            optimizer.add_param_group({"params": parameters[3:], "lr": 0.5})
        gone = {0: [3], 1: [0, 3], 2: [0, 1, 3], 4: [1, 2]}.get(t, [])
        for i, p in enumerate(parameters):
            p.grad = None if i in gone else torch.randn(p.shape).to(p.dtype)
        plain.step([p.grad for p in parameters])
        optimizer.step()
        for name, right in (("way", plain.way), ("steps", float(plain.steps))):
            held = cells(optimizer, name)
            assert len({id(one) for one in held}) == 1
            assert len(held) == 3 + (t > 2)
            assert (held[0].dtype, tuple(held[0].shape)) == (torch.float64, ())
            assert float(held[0]) == pytest.approx(right, rel=1e-6)
        for p, x, k in zip(parameters, plain.x, plain.k, strict=True):
            exact = 1e-2 if p.dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(p.detach().double(), x, rtol=exact, atol=exact)
            assert float(optimizer.state[p]["k"]) == k if p in optimizer.state else k == 0


def test_a_number_is_written_after_all_tensors_also_where_they_take_their_steps_in_lots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @rule
    def counting(theta, g, n=slot(rank="global"), k=slot(rank="tensor"), *, lr=0.1):
        return theta - lr * g / sr.norm(g), n + 1, k + n

    torch.set_num_threads(1)
    monkeypatch.setattr(lots, "CACHED", 0)
    parameters = make((3,), (2,), (4,))
    optimizer = counting.optimizer(parameters)
    for _ in range(3):
        fill_gradients(parameters)
        optimizer.step()
    assert [(float(own["n"]), float(own["k"])) for own in optimizer.state.values()] == [(3.0, 3.0)] * 3


@pytest.mark.parametrize("way", ["document", "copy", "pickle", "late"])
def test_a_run_that_is_resumed_has_the_bits_of_one_that_is_not(way: str) -> None:
    """A `late` tensor has state in the document, and no gradient until two steps after."""
    ends = []
    for resumed in (False, True):
        torch.manual_seed(1)
        parameters, optimizer = pace(None)
        for t in range(7):
            fill_gradients(parameters[:3])
            if way == "late" and t in (3, 4):
                parameters[0].grad = None
            optimizer.step()
            if t != 2 or not resumed:
                continue
            if way in {"document", "late"}:
                held = io.BytesIO()
                torch.save(optimizer.state_dict(), held)
                held.seek(0)
                optimizer = pacing.optimizer([{"params": parameters[:2]}, {"params": parameters[2:3], "lr": 0.25}])
                optimizer.load_state_dict(torch.load(held, weights_only=True))
            else:
                both = parameters, optimizer
                parameters, optimizer = copy.deepcopy(both) if way == "copy" else pickle.loads(pickle.dumps(both))  # noqa: S301
            assert len({id(one) for one in cells(optimizer, "way")}) == 1
        ends.append(bits(optimizer))
    assert ends[0] == ends[1]


def test_what_comes_apart_is_refused_unless_it_says_the_same() -> None:
    parameters, optimizer = pace(None)
    fill_gradients(parameters[:3])
    optimizer.step()
    optimizer.state[parameters[0]]["way"].fill_(0.75)  # in place: for all
    optimizer.step()
    assert float(optimizer.state[parameters[2]]["steps"]) == 2.0
    before = bits(optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][2]["way"] = torch.tensor(0.125)
    with pytest.raises(errors.StateError, match="`way` of `pacing` is one number") as caught:
        optimizer.load_state_dict(saved)
    number = float(cells(optimizer, "way")[0])
    assert f"{number} of parameter 0 of group 0, 0.125 of parameter 0 of group 1" in str(caught.value)
    assert caught.value.fix == (
        f"for own in state_dict['state'].values(): own['way'] = torch.tensor({number}, dtype=torch.float64)"
    )
    assert bits(optimizer) == before
    for own in saved["state"].values():
        own["way"] = torch.tensor(number, dtype=torch.float64)
    optimizer.load_state_dict(saved)
    assert bits(optimizer) == before
    optimizer.state[parameters[1]]["way"] = torch.tensor(0.5)
    with pytest.raises(errors.StateError, match=r"0\.5 of parameter 1 of group 0"):
        optimizer.step()
    for own in optimizer.state.values():
        assert float(own["steps"]) == 2.0
        own["way"] = torch.tensor(torch.nan)
    optimizer.step()  # NaN says the same as NaN
    assert len({id(one) for one in cells(optimizer, "way")}) == 1


@pytest.mark.parametrize("backend", WAYS)
def test_a_step_that_is_left_out_leaves_the_number_and_one_with_nan_is_nan_for_all(backend: str | None) -> None:
    for policy in ("skip", "propagate"):
        parameters, optimizer = pace(backend, None if backend else torch.float32, nonfinite=policy)
        for bad in (False, True, False):
            fill_gradients(parameters[:3])
            if bad:
                parameters[2].grad.fill_(torch.nan)
            optimizer.step()
        assert float(cells(optimizer, "steps")[0]) == 2.0 + (policy == "propagate")
        assert cells(optimizer, "way")[0].isnan() == (policy == "propagate")
        assert all(p.isfinite().all() == (policy == "skip") for p in parameters[:3])


def test_groups_that_differ_in_what_the_number_is_made_of_are_refused_before_anything_is_written() -> None:
    parameters, optimizer = pace(None)
    fill_gradients(parameters[:3])
    optimizer.step()
    optimizer.param_groups[1]["beta"] = 0.8
    before = bits(optimizer)
    with pytest.raises(errors.HyperparameterError, match="groups differ in `beta`") as caught:
        optimizer.step()
    assert "0.9 in group 0, 0.8 in group 1" in str(caught.value)
    assert bits(optimizer) == before
    optimizer.param_groups[0]["beta"] = torch.tensor(0.8, dtype=torch.float64)  # equal is enough
    optimizer.step()
    assert float(cells(optimizer, "steps")[0]) == 2.0


def test_a_backward_pass_that_steps_writes_the_number_once_and_refuses_what_waits_for_it() -> None:
    @rule
    def remembering(theta, g, way=slot(rank="global"), steps=slot(rank="global"), *, lr=0.1):
        return theta - lr * g / (1 + way), way + sr.global_norm(g), steps + 1

    sides = []
    for released in (False, True):
        parameters = [torch.nn.Parameter(torch.ones(size)) for size in (3, 5)]
        optimizer = remembering.optimizer(parameters)
        if released:
            optimizer.step_in_backward()
        for _ in range(3):
            optimizer.zero_grad()
            sum(p.square().sum() for p in parameters).backward()
            optimizer.step()
        sides.append([float(value) for p in parameters for value in (p.detach().sum(), *optimizer.state[p].values())])
        assert len({id(one) for one in cells(optimizer, "way")}) == 1
    assert sides[1] == pytest.approx(sides[0], rel=1e-6)
    assert sides[1][2] == sides[1][5] == 3.0
    with pytest.raises(errors.RuleError, match="`dog` needs"):
        sr.optim.DoG(make((2,))).step_in_backward()


@pytest.mark.parametrize("name", ["DoG", "Prodigy"])
def test_a_decay_of_some_groups_leaves_one_number_for_all(name: str) -> None:
    first, second = make((3,), dtype=torch.float64), make((2, 2), dtype=torch.float64)
    optimizer = getattr(sr.optim, name)([{"params": first}, {"params": second}], backend="eager")
    for decay in (0.1, 0.2, 0.0):
        for _ in range(2):
            fill_gradients([*first, *second])
            optimizer.step()
        for own in (kept.name for kept in optimizer.program.graph.global_slots):
            assert len({id(one) for one in cells(optimizer, own)}) == 1
        optimizer.param_groups[1]["weight_decay"] = decay


def test_each_formula_of_an_optimiser_has_a_number_of_its_own_which_the_explanation_counts() -> None:
    first, second = make((3,)), make((2,))
    groups = [{"params": first}, {"params": second, "rule": sr.chain(sr.clip_value(limit=0.5), free.dog)}]
    optimizer = sr.Optimizer(groups, free.dog, backend="eager")
    told = sr.explain(optimizer)
    assert (told.state_bytes_once, told.state_bytes_per_parameter) == (16, 4)
    assert "state: 4 bytes a parameter, 16 bytes for all tensors" in str(told)
    fill_gradients([*first, *second], 9.0)
    optimizer.step()
    assert len({id(one) for one in cells(optimizer, "total")}) == 2
    assert "bytes for all tensors" not in str(sr.explain(sr.board.adam))
    optimizer = sr.optim.DoG([{"params": first}, {"params": second}], backend="eager")
    for count in (1, 2):  # a group that gets another formula goes on from the number that it had
        fill_gradients([*first, *second])
        optimizer.step()
        assert len({id(one) for one in cells(optimizer, "total")}) == count
        optimizer.param_groups[1]["maximize"] = True


def test_tensors_on_two_devices_are_refused() -> None:
    parameters = [*make((2,)), torch.nn.Parameter(torch.empty(2, device="meta"))]
    optimizer = free.dog.optimizer(parameters)
    states: dict[Any, Any] = {p: {} for p in parameters}
    with pytest.raises(errors.ParameterError, match="on two devices") as caught:
        unite(optimizer._choose, optimizer.param_groups, states, parameters)
    assert caught.value.fix == "move the model to one device: model.to('cpu')"
    assert states == {p: {} for p in parameters}
