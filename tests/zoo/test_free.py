"""Rules with less to tune, relatives of Adam and changes of updates agree with formulas that are written again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule import chain
from steprule.graph import chance
from steprule.graph.evaluate import words
from steprule.graph.node import drawn
from steprule.zoo import board, free, papers

pytestmark = pytest.mark.null

Arrays = list[Any]
SHAPES = [(3,), (2, 2), ()]
ROOT = np.sqrt
LR = 0.1


def start() -> Arrays:
    random = np.random.default_rng(0)
    return [random.normal(size=shape) for shape in SHAPES]


def slope(x: Arrays, t: int) -> Arrays:
    """Return gradients that depend on where they are taken, some of them zero, one of them large."""
    random = np.random.default_rng(100 + t)
    found = [2 * a + random.normal(size=np.shape(a)) * (10.0 if t == 3 else 1.0) for a in x]
    return [np.where(random.random(np.shape(a)) < 0.1, 0.0, a) for a in found]


def loss_of(x: Arrays) -> float:
    return float(sum(np.sum(a * a) for a in x))


def norm_of(x: Arrays) -> float:
    return float(ROOT(sum(np.sum(a * a) for a in x)))


class Plain:
    """What a formula keeps: `s` by name, a number or one array a tensor; `x` are the parameters."""

    def __init__(self) -> None:
        self.x, self.s = start(), dict[str, Any]()

    def kept(self, name: str, init: Any = None) -> Any:
        return self.s.setdefault(name, [np.zeros(shape) for shape in SHAPES] if init is None else init)

    def average(self, name: str, beta: Any, new: Arrays) -> Arrays:
        betas = beta if isinstance(beta, list) else [beta] * len(new)
        self.s[name] = [b * m + (1 - b) * n for b, m, n in zip(betas, self.kept(name), new, strict=True)]
        return self.s[name]


def signum(o: Plain, g: Arrays, t: int) -> None:
    m = o.average("m", 0.9, g)
    o.x = [x - LR * 0.2 * x - LR * np.sign(a) for x, a in zip(o.x, m, strict=True)]


def sgld(o: Plain, g: Arrays, t: int) -> None:
    for i, a in enumerate(g):
        z = chance.normal_float64(words(drawn("normal", 0), SHAPES[i], t, i, 7)).reshape(SHAPES[i])
        o.x[i] = o.x[i] - LR * a + ROOT(2 * LR * 0.5) * z


def polyak(o: Plain, g: Arrays, t: int) -> None:
    size = min(0.3, max(0.0, loss_of(o.x) - 0.25) / norm_of(g) ** 2)
    o.x = [x - size * a for x, a in zip(o.x, g, strict=True)]


def stable_adamw(o: Plain, g: Arrays, t: int) -> None:
    b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (0.9, 0.99))
    m, v = o.average("m", b1, g), o.average("v", b2, [a * a for a in g])
    for i, a in enumerate(g):
        rate = LR / max(1.0, ROOT(np.mean(a * a / np.maximum(v[i], 1e-16))))
        o.x[i] = o.x[i] - rate * 0.2 * o.x[i] - rate * m[i] / (ROOT(v[i]) + 1e-8)


def mars(o: Plain, g: Arrays, t: int) -> None:
    before = o.s.get("g", g)
    c = [a + 0.025 * 0.95 / 0.05 * (a - b) for a, b in zip(g, before, strict=True)]
    c = [a / max(1.0, ROOT(np.sum(a * a))) for a in c]
    m, v = o.average("m", 0.95, c), o.average("v", 0.99, [a * a for a in c])
    o.s["g"] = g
    for i in range(len(g)):
        move = m[i] / (1 - 0.95**t) / (ROOT(v[i] / (1 - 0.99**t)) + 1e-8)
        o.x[i] = o.x[i] - LR * (move + 0.2 * o.x[i])


def adagc(o: Plain, g: Arrays, t: int) -> None:
    usual = o.kept("usual", [0.0] * len(g))
    whole = min(1.0, 1.0 / (norm_of(g) + 1e-6))
    for i, a in enumerate(g):
        size = ROOT(np.sum(a * a))
        if t <= 2:
            own = whole * a
            usual[i] = ROOT(np.sum(own * own)) if t == 1 else min(usual[i], ROOT(np.sum(own * own)))
        else:
            own = a * min(1.0, 1.05 * usual[i] / size) if size else a
            usual[i] = 0.98 * usual[i] + 0.02 * ROOT(np.sum(own * own))
        o.x[i] = o.x[i] - LR * own


def cautious(o: Plain, g: Arrays, t: int) -> None:
    m = o.average("m", 0.9, g)
    for i, a in enumerate(g):
        goes = (m[i] * a > 0).astype(float)
        o.x[i] = o.x[i] - LR * m[i] * goes / max(goes.mean(), 1e-3)


def lookahead(o: Plain, g: Arrays, t: int) -> None:
    slow = o.kept("slow", start())
    o.x = [x - LR * a for x, a in zip(o.x, g, strict=True)]
    if t % 3 == 0:
        o.s["slow"] = o.x = [a + 0.5 * (x - a) for a, x in zip(slow, o.x, strict=True)]


def ema(o: Plain, g: Arrays, t: int) -> None:
    o.kept("average", start())
    o.x = [x - LR * a for x, a in zip(o.x, g, strict=True)]
    o.average("average", 0.9, o.x)


def dog(o: Plain, g: Arrays, t: int) -> None:
    first = o.kept("first", start())
    way = o.s.get("way", 1e-6 * (1 + norm_of(o.x)))
    o.s["way"] = max(way, norm_of([x - a for x, a in zip(o.x, first, strict=True)]))
    o.s["total"] = o.s.get("total", 0.0) + norm_of(g) ** 2
    o.x = [x - o.s["way"] / ROOT(o.s["total"] + 1e-8) * a for x, a in zip(o.x, g, strict=True)]


def prodigy(o: Plain, g: Arrays, t: int) -> None:
    """As the authors' code orders it, with d_hat from sums over all tensors."""
    p0, d, d0, b3 = o.kept("p0", start()), o.s.get("d", 1e-6), 1e-6, ROOT(0.999)
    dlr = d * 1.0
    o.s["top"] = b3 * o.s.get("top", 0.0)
    s, m, v = o.kept("s"), o.kept("m"), o.kept("v")
    bottom = 0.0
    for i, a in enumerate(g):
        o.s["top"] += d / d0 * dlr * np.sum(a * (p0[i] - o.x[i]))
        m[i] = 0.9 * m[i] + d * 0.1 * a
        v[i] = 0.999 * v[i] + d * d * (1 - 0.999) * a * a
        s[i] = b3 * s[i] + d / d0 * dlr * a
        bottom += np.sum(np.abs(s[i]))
    o.s["d"] = max(d, o.s["top"] / bottom)
    for i in range(len(g)):
        o.x[i] = o.x[i] - 0.2 * dlr * o.x[i] - dlr * m[i] / (ROOT(v[i]) + o.s["d"] * 1e-8)


def _schedule_free(o: Plain, direction: Arrays, beta: float, t: int) -> None:
    """Move y, which `o.x` is, by way of z and x, as the paper does."""
    z, x = o.kept("z", start()), o.kept("x", start())
    rate = LR * min(1.0, t / 4)
    o.s["sum"] = o.s.get("sum", 0.0) + rate**2
    c = rate**2 / o.s["sum"]
    for i, move in enumerate(direction):
        z[i] = z[i] - rate * (move + 0.2 * o.x[i])
        x[i] = (1 - c) * x[i] + c * z[i]
        o.x[i] = (1 - beta) * z[i] + beta * x[i]


def schedule_free_sgd(o: Plain, g: Arrays, t: int) -> None:
    _schedule_free(o, g, 0.9, t)


def schedule_free_adamw(o: Plain, g: Arrays, t: int) -> None:
    v = o.average("v", 0.999, [a * a for a in g])
    _schedule_free(o, [a / (ROOT(b / (1 - 0.999**t)) + 1e-8) for a, b in zip(g, v, strict=True)], 0.9, t)


F = sr.optim
SGD = sr.board.sgd(lr=LR)
CASES: dict[str, tuple[Callable[..., Any], Callable[[Plain, Arrays, int], None]]] = {
    "signum": (lambda p, **o: F.Signum(p, lr=LR, weight_decay=0.2, **o), signum),
    "sgld": (lambda p, **o: F.SGLD(p, lr=LR, temperature=0.5, seed=7, **o), sgld),
    "polyak": (lambda p, **o: F.Polyak(p, lr=0.3, least=0.25, **o), polyak),
    "stable_adamw": (lambda p, **o: F.StableAdamW(p, lr=LR, weight_decay=0.2, **o), stable_adamw),
    "mars": (lambda p, **o: F.MARS(p, lr=LR, weight_decay=0.2, **o), mars),
    "adagc": (lambda p, **o: chain(sr.adagc(start=2), SGD).optimizer(p, **o), adagc),
    "cautious": (lambda p, **o: sr.cautious(sr.board.momentum(lr=LR, beta=0.9)).optimizer(p, **o), cautious),
    "lookahead": (lambda p, **o: sr.lookahead(SGD, every=3).optimizer(p, **o), lookahead),
    "ema": (lambda p, **o: sr.ema(SGD, decay=0.9).optimizer(p, **o), ema),
    "dog": (lambda p, **o: F.DoG(p, **o), dog),
    "prodigy": (lambda p, **o: F.Prodigy(p, weight_decay=0.2, **o), prodigy),
    "schedule_free_sgd": (
        lambda p, **o: sr.schedule_free_sgd.optimizer(p, lr=LR, weight_decay=0.2, warmup_steps=4, **o),
        schedule_free_sgd,
    ),
    "schedule_free_adamw": (
        lambda p, **o: sr.schedule_free_adamw.optimizer(p, lr=LR, weight_decay=0.2, warmup_steps=4, **o),
        schedule_free_adamw,
    ),
}


def parameters_of(values: Arrays) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values]


def numbers_of(parameters: list[torch.nn.Parameter]) -> Arrays:
    return [p.detach().numpy().copy() for p in parameters]


def beside(name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give every parameter as it is after each of twelve steps, then averages, and what the formula has for them."""
    make, reference = CASES[name]
    plain, parameters = Plain(), parameters_of(start())
    optimizer = make(parameters, backend="eager")
    for t in range(1, 13):
        told = loss_of(plain.x)
        for p, own in zip(parameters, slope(plain.x, t), strict=True):
            p.grad = torch.tensor(own, dtype=torch.float64)
        reference(plain, slope(plain.x, t), t)
        optimizer.step(loss=told)
        yield from ((p.detach(), torch.tensor(right)) for p, right in zip(parameters, plain.x, strict=True))
    assert any(not np.allclose(a, b, atol=1e-7) for a, b in zip(plain.x, start(), strict=True))
    for slot in ("average", "slow"):
        for p, right in zip(parameters, plain.s.get(slot, ()), strict=False):
            yield optimizer.state[p][slot], torch.tensor(right)


@pytest.mark.parametrize("name", CASES)
def test_twelve_steps_are_the_formula(name: str) -> None:
    for ours, right in beside(name):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_zero_gradient_at_rate_zero_changes_nothing_and_stays_finite(name: str) -> None:
    parameters = parameters_of(start())
    optimizer = CASES[name][0](parameters, backend="eager")
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for _ in range(2):
        for p in parameters:
            p.grad = torch.zeros_like(p)
        optimizer.step(loss=0.25)
    for p, before in zip(numbers_of(parameters), start(), strict=True):
        assert np.array_equal(p, before)
    for state in optimizer.state.values():
        assert all(torch.as_tensor(value).isfinite().all() for value in state.values())


@pytest.mark.parametrize("rule", [free.schedule_free_sgd, free.schedule_free_adamw], ids=lambda rule: rule.name)
def test_eval_holds_the_average_of_schedule_free_and_train_the_point_again(rule: Any) -> None:
    make, reference = CASES[rule.name]
    plain, parameters = Plain(), parameters_of(start())
    optimizer = make(parameters, backend="eager")
    for t in range(1, 6):
        for p, own in zip(parameters, slope(plain.x, t), strict=True):
            p.grad = torch.tensor(own, dtype=torch.float64)
        reference(plain, slope(plain.x, t), t)
        optimizer.step()
    for _ in range(2):  # a second call changes nothing
        optimizer.eval()
        for p, right in zip(numbers_of(parameters), plain.s["x"], strict=True):
            np.testing.assert_allclose(p, right, rtol=1e-12)
    with pytest.raises(sr.errors.ParameterError, match=r"train\(\)"):
        optimizer.step()
    for _ in range(2):
        optimizer.train()
        for p, right in zip(numbers_of(parameters), plain.x, strict=True):
            np.testing.assert_allclose(p, right, rtol=1e-12)

    def closure() -> float:
        optimizer.eval()
        return 0.0

    with pytest.raises(sr.errors.ParameterError):  # not while a step is under way: it is not taken for begun
        optimizer.step(closure)
    optimizer.eval()
    for p, right in zip(numbers_of(parameters), plain.s["x"], strict=True):
        np.testing.assert_allclose(p, right, rtol=1e-12)
    optimizer.train()
    others = sr.board.sgd(lr=LR).optimizer(parameters)
    others.eval()
    others.step()  # it has no other point
    others.train()


@pytest.mark.parametrize("rule", [free.schedule_free_sgd, board.nesterov], ids=lambda rule: rule.name)
def test_train_goes_back_to_the_point_also_in_a_copy_or_from_a_checkpoint_made_after_eval(rule: Any) -> None:
    def steps(optimizer: Any, lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad = torch.sin(3 * p.detach())
        optimizer.step()

    parameters = parameters_of(start())
    optimizer = rule.optimizer(parameters, backend="eager")
    for _ in range(4):
        steps(optimizer, 0.1)
    points = numbers_of(parameters)
    optimizer.eval()
    for p, point in zip(numbers_of(parameters), points, strict=True):
        assert np.abs(p - point).max() > 1e-6  # it is another
    loaded = rule.optimizer(theirs := parameters_of(numbers_of(parameters)), backend="eager")
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copied, its = copy.deepcopy((optimizer, parameters))
    for one, own in ((optimizer, parameters), (loaded, theirs), (copied, its)):
        for group in one.param_groups:
            group["lr"] = 0.03  # a scheduler's; the point was made of another
        one.train()
        one.train()
        for p, point in zip(numbers_of(own), points, strict=True):
            np.testing.assert_allclose(p, point, rtol=1e-14)
        steps(one, 0.03)
    for own in (theirs, its):
        for p, right in zip(numbers_of(own), numbers_of(parameters), strict=True):
            np.testing.assert_allclose(p, right, rtol=1e-13)


@pytest.mark.parametrize("rule", [free.schedule_free_sgd, free.schedule_free_adamw], ids=lambda rule: rule.name)
def test_schedule_free_weighs_iterates_by_the_greatest_rate_so_far_and_by_their_number(rule: Any) -> None:
    r, power, beta = 0.5, 1.5, 0.8
    named = {"momentum": beta} if rule is free.schedule_free_sgd else {"beta1": beta}
    optimizer = rule.optimizer(own := parameters_of([np.array([2.0, -1.0])]), r=r, weight_lr_power=power, **named)
    y = x = z = numbers_of(own)[0]
    v, total, greatest = 0.0, 0.0, 0.0
    for t, lr in enumerate([0.1, 0.3, 0.05, 0.2], 1):
        g = y + np.cos(t)
        own[0].grad = torch.tensor(g)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        greatest = max(greatest, lr)
        weight = t**r * greatest**power
        total += weight
        v = 0.999 * v + 0.001 * g * g
        step = g if rule is free.schedule_free_sgd else g / (ROOT(v / (1 - 0.999**t)) + 1e-8)
        z = z - lr * step
        x = x + weight / total * (z - x)
        y = beta * x + (1 - beta) * z
        np.testing.assert_allclose(numbers_of(own)[0], y, rtol=1e-7)  # numbers of the host are kept in float32


# What is done to an update ----------------------------------------------------------------------------


def test_what_changes_an_update_stands_behind_the_rule_and_sees_what_the_rule_saw() -> None:
    both = chain(sr.clip_value(limit=0.5), sr.weight_decay(0.1), sr.board.sgd(lr=LR), sr.cautious, sr.ema)
    assert both.name == "clip_value+decoupled_weight_decay+sgd+cautious+ema"
    start, gradient = torch.tensor([[2.0, -3.0, 5.0], [4.0, -8.0, 0.0]], dtype=torch.float64)
    p = torch.nn.Parameter(start.clone())
    p.grad = gradient.clone()
    both.optimizer([p], backend="eager").step()
    moved = start * (1 - 0.1 * LR) - LR * gradient.sign() / 2 * 1.5  # the third only decays
    torch.testing.assert_close(p.detach(), moved, rtol=1e-14, atol=0)
    assert sr.lookahead(sr.board.adam, every=7).hypers["every"].value == 7.0
    assert [slot.name for slot in sr.ema(sr.board.adam).graph.slots] == ["m", "s", "average"]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda: chain(sr.cautious, sr.board.sgd), "stands behind one"),
        (lambda: chain(sr.cautious), "stands behind one"),
        (lambda: chain(sr.board.sgd, sr.clip_value), "`sgd` is a rule, but only the last"),
        (lambda: chain(sr.board.sgd, sr.ema, sr.board.sgd), "only the last link of a chain may be one"),
        (lambda: sr.transform(lambda theta, g: theta, moves="update"), "needs positional arguments"),
    ],
)
def test_what_stands_elsewhere_is_refused(wrong: Callable[[], Any], what: str) -> None:
    with pytest.raises(sr.errors.RuleError, match=what) as caught:
        wrong()
    assert caught.value.fix


def test_formulas_are_short() -> None:
    import inspect

    rules = [papers.signum, papers.sgld, papers.stable_adamw, papers.mars, free.polyak, free.dog, free.prodigy]
    rules += [free.schedule_free_sgd, free.schedule_free_adamw, sr.cautious, sr.lookahead, sr.ema, sr.adagc]
    for formula in rules:
        body = inspect.getsource(formula.part.function).partition('"""')[2].partition('"""')[2]
        assert len(body.strip().splitlines()) <= 12, formula.name
