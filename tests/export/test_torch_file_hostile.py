"""Exported torch files of rules that nobody sane writes: odd names, odd words, odd ranges, numbers that turn bad."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from exported import differences, loaded, parameters, stepped, twin

import steprule as sr
from steprule import board

pytestmark = pytest.mark.cpu

SHAPES = [(7,), (3, 4)]
OWN = """
import steprule as sr

@sr.rule
def {rule}({theta}, g, {m}, *, lr=sr.hyper(0.1, low=0), {beta}=sr.hyper(0.9, low=0, below=1)):
    {m} = {beta} * {m} + (1 - {beta}) * g
    return {theta} - lr * {m} / (sr.global_norm({m}) + 1), {m}
"""
USUAL = {"rule": "own", "theta": "theta", "m": "m", "beta": "beta"}
HOSTILE = {
    "rule": ["p", "none", "closure", "updates", "super", "ValueError", "StopIteration", "Own", "αβ", "_1a", "together"],
    "theta": ["parameter", "float", "scalar", "working", "torch", "p", "λ"],
    "m": ["parameter", "float", "scalar", "working", "gradient", "group"],
    "beta": ["check", "super", "totals", "torch", "float", "closure", "β"],
}
Module = Callable[[str], ModuleType]


@pytest.fixture
def module(tmp_path: Path) -> Module:
    """Return what makes a module of a source: a rule is read where it is written."""

    def made(source: str) -> ModuleType:
        path = tmp_path / f"own_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found

    return made


def agrees(rule: Any, dtype: torch.dtype = torch.float32) -> None:
    """Take some steps of a rule here and in its file."""
    ours, theirs = twin(lambda groups: sr.Optimizer(groups, rule, backend="eager"), sr.export(rule), SHAPES, dtype)
    for own in (ours, theirs):
        stepped(own, 3)
    assert differences(ours, theirs) == []


@pytest.mark.parametrize(("place", "name"), [(place, name) for place, names in HOSTILE.items() for name in names])
def test_a_name_of_the_file_may_be_a_name_of_the_rule(place: str, name: str, module: Module) -> None:
    own = {**USUAL, place: name}
    agrees(getattr(module(OWN.format(**own)), own["rule"]))


def test_parts_of_one_name_in_two_rules_stay_two_functions() -> None:
    first = sr.chain(sr.clip_value(limit=0.1), board.adam)
    second = sr.chain(sr.weight_decay(0.1), board.adam)
    own = parameters(SHAPES)
    groups = [{"params": own[:1], "rule": first}, {"params": own[1:], "rule": second}]
    text = sr.export(sr.Optimizer(groups, board.adam, backend="eager"))
    assert len({line for line in text.splitlines() if line.startswith("def adam")}) == 2


@pytest.mark.parametrize("words", [
    r"Say \"this\" and \"\"\"that\"\"\".", r"C:\\Users\\new \\N{none}", r"A \x00, a \u2028 and a \ud800.", "ends \\\\",
    "{braces} and {",
])  # fmt: skip
def test_words_of_an_author_end_nothing(words: str, module: Module) -> None:
    head = "import steprule as sr\n\n@sr.rule\ndef own(theta, g, *, lr=0.1):\n"
    source = f'{head}    "{words}"\n    return theta - lr * g\n'
    for target in ("torch", "triton", "javascript"):
        text = sr.export(module(source).own, target)  # type: ignore[arg-type]
        text.encode()
        assert "\x00" not in text
        if target != "javascript":
            compile(text, "exported.py", "exec")


def test_slots_may_exchange_their_values_and_nothing_may_happen(module: Module) -> None:
    rules = module("""
import steprule as sr

@sr.rule
def exchange(theta, g, m=sr.slot(init=1.0), v=sr.slot(init=2.0), *, lr=0.1):
    return theta - lr * m * g, v, m

@sr.rule
def of_tensors(theta, g, m=sr.slot(init=0.5, rank="tensor"), k=sr.slot(init=3.0, rank="tensor"), *, lr=0.1):
    return theta - lr * g * m, k, m
""")
    agrees(rules.exchange)
    agrees(rules.of_tensors, torch.float64)

    @sr.rule
    def still(theta: Any, g: Any) -> Any:
        return theta

    optimizer = loaded(sr.export(still))([p := torch.nn.Parameter(torch.ones(2))])  # type: ignore[call-arg]
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.tolist() == [1, 1]


@pytest.mark.parametrize("ends", ["high=0.99999999", "below=123456.789", "low=1/3", "above=0.123456789"])
def test_ends_of_ranges_keep_their_digits(ends: str, module: Module) -> None:
    end = eval(ends.partition("=")[2])  # noqa: S307
    inside, outside = (end - 1e-9, end + 1e-9) if ends[0] in "hb" else (end + 1e-9, end - 1e-9)
    source = OWN.format(**USUAL).replace("sr.hyper(0.9, low=0, below=1)", f"sr.hyper({inside!r}, {ends})")
    rule = module(source).own
    made = loaded(sr.export(rule))
    made([torch.nn.Parameter(torch.ones(2))], beta=inside)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=rf"beta is .*{end!r}"):
        made([torch.nn.Parameter(torch.ones(2))], beta=outside)  # type: ignore[call-arg]
    assert f"{end!r}" in sr.export(rule, "triton").partition("LEGAL")[2].partition("\n]")[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "0.1", None, 1j, torch.ones(2)], ids=str)
def test_numbers_are_looked_at_also_where_any_is_legal_and_after_a_schedule_changed_them(bad: Any) -> None:
    @sr.rule
    def free(theta: Any, g: Any, *, lr: float = 0.1) -> Any:
        return theta - lr * g

    made, first, second = loaded(sr.export(free)), *parameters([(2,), (2,)])
    with pytest.raises(ValueError, match=r"lr is .*; it must be a finite number$"):
        made([first], lr=bad)  # type: ignore[call-arg]
    optimizer: Any = made([{"params": [first]}, {"params": [second]}])  # type: ignore[call-arg]
    optimizer.param_groups[1]["lr"] = bad
    first.grad, before = torch.ones(2), first.tolist()
    with pytest.raises(ValueError, match="lr is "):
        optimizer.step()
    assert first.tolist() == before


def test_a_group_that_names_no_rule_is_told_the_rules() -> None:
    own = parameters([(3, 4), (7,)])
    groups = [{"params": own[:1]}, {"params": own[1:], "rule": board.momentum}]
    text = sr.export(sr.Optimizer(groups, board.adam, backend="eager"))
    optimizer: Any = loaded(text)(*[[p] for p in own])  # type: ignore[call-arg]
    for group in ({}, {"rule": "sgd"}):
        with pytest.raises(ValueError, match="one of adam, momentum"):
            optimizer.add_param_group({"params": parameters([(2,)]), **group})


@pytest.mark.parametrize("damage", [
    lambda state: state.pop("exp_avg"), lambda state: state.update(exp_avg=torch.ones(1)),
    lambda state: state.update(exp_avg=None),
], ids=["missing", "of another shape", "none"])  # fmt: skip
def test_a_damaged_checkpoint_is_refused_when_it_is_loaded(damage: Callable[[Any], Any]) -> None:
    made: Any = loaded(sr.export(sr.optim.AdamW))
    optimizer = made(parameters(SHAPES))
    stepped(optimizer, 2)
    saved = optimizer.state_dict()
    damage(saved["state"][1])
    with pytest.raises(ValueError, match=r"parameter 1 has no exp_avg of \(3, 4\)"):
        made(parameters(SHAPES)).load_state_dict(saved)


def test_counts_that_are_plain_numbers_and_parameters_without_a_state_load() -> None:
    made: Any = loaded(sr.export(sr.optim.AdamW))
    ours, theirs = made(parameters(SHAPES)), made(parameters(SHAPES))
    stepped(ours, 2)
    saved = copy.deepcopy(ours.state_dict())
    saved["state"][0]["step"], saved["state"][1] = 2, {}
    for own, p in zip(theirs.param_groups[0]["params"], ours.param_groups[0]["params"], strict=True):
        own.data.copy_(p.data)
    theirs.load_state_dict(saved)
    del ours.state[ours.param_groups[0]["params"][1]]
    assert {value.dtype for value in theirs.state[theirs.param_groups[0]["params"][0]].values()} == {torch.float32}
    for own in (ours, theirs):
        stepped(own, 2, first=2)
    assert differences(ours, theirs) == []


def test_a_number_of_zero_is_not_one_that_nobody_gave() -> None:
    made: Any = loaded(sr.export(sr.optim.Adafactor))
    made([{"params": (p for p in parameters([(2, 2)]))}])
    own, other = parameters([(2, 3)]), parameters([(2, 3)])
    pair = sr.optim.Adafactor(own, eps=(0.0, 1e-3), backend="eager"), made(other, eps=(0.0, 1e-3))
    for optimizer, (p,) in zip(pair, (own, other), strict=True):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert differences(*pair) == []
    assert own[0].isnan().all()
