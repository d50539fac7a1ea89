"""Exported torch files: whatever the rule, they import torch alone, and step bit for bit as the eager backend does."""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import MATRICES, SHAPES, STEPS, classes, differences, loaded, parameters, rules, stepped, twin, two_groups
from exported import with_closure as closed
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import steprule as sr
from steprule import board
from steprule.errors import BackendError, HyperparameterError, RuleError
from steprule.export.torch_file import complete
from steprule.export.torch_methods import labels
from steprule.export.torch_update import written
from steprule.graph.graph import Graph
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule
from strategies import HYPERS, graphs, problem, run

pytestmark = pytest.mark.cpu

SUBJECTS: dict[str, Any] = {**rules(), **classes()}
SETTINGS = """
line-length = 120
target-version = "py311"
[lint]
select = ["E", "F", "W", "I", "B", "UP", "SIM", "RET", "C4"]
"""
BY_SIZE = {"class.SOAP", "class.Shampoo"}
"""Classes that choose other rules for long sides."""


@cache
def text_of(name: str) -> str:
    return sr.export(SUBJECTS[name])


def make_of(name: str, **options: Any) -> Any:
    rule = SUBJECTS[name]
    if isinstance(rule, type):
        return lambda groups: rule(groups, backend="eager", **options)
    return lambda groups: sr.Optimizer(groups, rule, backend="eager", **options)


def shapes_of(name: str) -> list[tuple[int, ...]]:
    of_matrices = name.startswith("matrices") or name in {"class.Muon", "class.NorMuon", *BY_SIZE}
    return MATRICES if of_matrices else SHAPES


def twice(name: str) -> bool:
    return name == "papers.mars_exact"


def run_of(name: str, own: Any, steps: int, first: int = 0) -> None:
    if twice(name):
        closed(own, steps // 4)
    else:
        # Matrices of tensors that have missed steps are multiplied apart here, in one stack there: other bits.
        stepped(own, steps, loss="loss=None" in text_of(name), first=first, all_present="soap" in name.lower())


@pytest.mark.parametrize("name", SUBJECTS)
def test_file_steps_bit_for_bit_as_eager_and_takes_its_checkpoint_and_gives_it_its_own(name: str) -> None:
    """In the middle of the run each loads what the other has saved, and goes on with that."""
    half = (40 if isinstance(SUBJECTS[name], type) else STEPS) // 2
    pair = twin(make_of(name), text_of(name), shapes_of(name), torch.float32)
    for own in pair:
        run_of(name, own, half)
    assert differences(*pair) == []
    later = twin(make_of(name), text_of(name), shapes_of(name), torch.float32)
    for own, earlier in zip(later, reversed(pair), strict=True):
        own.load_state_dict(copy.deepcopy(earlier.state_dict()))
        for group, old in zip(own.param_groups, earlier.param_groups, strict=True):
            for p, q in zip(group["params"], old["params"], strict=True):
                p.data.copy_(q.data)
        run_of(name, own, half, first=half)
    assert differences(*later) == []


@pytest.mark.parametrize(
    "name", ["board.adam", "class.AdamW", "class.Adafactor", "clipped", "board.nesterov", "class.Lion"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_file_computes_16_bits_in_float32_and_float64_in_float64(name: str, dtype: torch.dtype) -> None:
    ours, theirs = twin(make_of(name), text_of(name), shapes_of(name), dtype)
    for own in (ours, theirs):
        stepped(own, 24)
    if dtype is not torch.float64:
        assert differences(ours, theirs) == []
    for a, b in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["board.nesterov", "board_point", "free.schedule_free_adamw"])
def test_closure_is_evaluated_at_the_look_ahead_point_exactly(name: str) -> None:
    ours, theirs = twin(make_of(name), text_of(name), SHAPES, torch.float32)
    for own in (ours, theirs):
        closed(own, 20)
        stepped(own, 20)
        closed(own, 20)
        stepped(own, 7)
        own.eval()
    for a, b in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.equal(a, b)
    for own in (ours, theirs):
        own.train()
        stepped(own, 20)
    ours.eval()
    theirs.eval()
    for a, b in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_implicit_rule_finds_the_point_where_its_step_ends() -> None:
    rule = board.nesterov(look_ahead="implicit")
    text = sr.export(rule, lr=0.02)
    for dtype in (torch.float32, torch.float64):
        ours, theirs = twin(lambda groups: sr.Optimizer(groups, rule, backend="eager", lr=0.02), text, SHAPES, dtype)
        for own in (ours, theirs):
            closed(own, 10)
        assert differences(ours, theirs) == []
    with pytest.raises(RuntimeError, match="closure"):
        theirs.step()


def test_two_gradients_a_step() -> None:
    rule = sr.sam(board.momentum)
    ours, theirs = twin(
        lambda groups: sr.Optimizer(groups, rule, backend="eager"), sr.export(rule), SHAPES, torch.float32
    )
    for own in (ours, theirs):
        closed(own, 50)
    assert differences(ours, theirs) == []
    with pytest.raises(RuntimeError, match="closure"):
        theirs.step()


@pytest.mark.parametrize("options", [{"state": "bfloat16"}, {"state": "float32"}, {"rounding": "stochastic"},
                                     {"state": {"m": "bfloat16"}, "seed": 7}])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_formats_of_state_and_rounding(options: dict[str, Any], dtype: torch.dtype) -> None:
    text = sr.export(board.adam, **options)
    ours, theirs = twin(lambda groups: board.adam.optimizer(groups, backend="eager", **options), text, SHAPES, dtype)
    for own in (ours, theirs):
        stepped(own, 24)
    assert differences(ours, theirs) == []


def test_rule_may_have_the_name_of_a_helper() -> None:
    @sr.rule
    def squares(theta: Any, g: Any, *, lr: float = 0.1) -> Any:
        return theta - lr * g / sr.global_norm(g)

    ours, theirs = twin(
        lambda groups: squares.optimizer(groups, backend="eager"), sr.export(squares), SHAPES, torch.float32
    )
    for own in (ours, theirs):
        stepped(own, 5)
    assert differences(ours, theirs) == []


def test_rules_that_draw_draw_the_same_numbers() -> None:
    @sr.rule
    def noisy(theta: Any, g: Any, *, lr: float = 0.1) -> Any:
        return theta - lr * (g + sr.normal() + sr.uniform() * sr.rademacher())

    for dtype in (torch.float32, torch.float64):
        ours, theirs = twin(
            lambda groups: noisy.optimizer(groups, backend="eager", seed=3), sr.export(noisy, seed=3), SHAPES, dtype
        )
        for own in (ours, theirs):
            stepped(own, 20)
        assert differences(ours, theirs) == []


def test_one_norm_is_of_all_groups_and_rules() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3))
    other = copy.deepcopy(model)
    ours = sr.optim.Muon(model, lr=0.01, clip=0.5, backend="eager")
    text = sr.export(ours)
    cls = loaded(text)
    assert cls.__name__ == "MuonAdam"
    of_muon = [name for name, route in ours.routes.items() if route.rule == "muon"]
    named = dict(other.named_parameters())
    theirs = cls([named[name] for name in of_muon], [p for name, p in named.items() if name not in of_muon])  # type: ignore[call-arg]
    for step in range(STEPS):
        for one, two in zip(model.named_parameters(), named.items(), strict=True):
            source = torch.Generator().manual_seed(step)
            for p in (one[1], two[1]):
                p.grad = torch.randn(p.shape, generator=source.manual_seed(step)) + 0.2 * p.detach()
        ours.step()
        theirs.step()
    assert all(torch.equal(p, named[name]) for name, p in model.named_parameters())
    saved = theirs.state_dict()
    assert [group["rule"] for group in saved["param_groups"]] == ["muon", "adam"]


def test_soap_of_a_model_takes_its_bases_at_the_first_step_and_refreshes_them_at_every_tenth() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3))
    other = copy.deepcopy(model)
    ours = sr.optim.SOAP(model, lr=0.01, backend="eager")
    text = sr.export(ours)
    assert text.count("\n") <= 300
    of_soap = [name for name, route in ours.routes.items() if route.rule == "soap"]
    named = dict(other.named_parameters())
    theirs: Any = loaded(text)([named[name] for name in of_soap], [p for n, p in named.items() if n not in of_soap])
    space = theirs._state.__func__.__globals__
    calls: set[tuple[str, int]] = set()
    step = 0
    for name in ("eigenvectors", "qr"):
        space[name] = lambda x, name=name, own=space[name]: calls.add((name, step)) or own(x)
    for step in range(23):
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            for p in (one, two):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) + 0.2 * p.detach()
        ours.step()
        theirs.step()
    assert all(torch.equal(p, named[name]) for name, p in model.named_parameters())
    assert calls == {("eigenvectors", 0), ("qr", 10), ("qr", 20)}


@pytest.mark.parametrize("cls", [sr.optim.SOAP, sr.optim.Shampoo])
def test_sides_that_are_too_long_are_refused(cls: Any) -> None:
    own: Any = loaded(sr.export(cls))
    optimizer = own(parameters([(3, 4), (3, 5)]), max_precond_dim=4)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"side of 5, above max_precond_dim=4"):
            stepped(optimizer, 1)
    vector = own(parameters([(5,)]), max_precond_dim=4)
    if cls is sr.optim.SOAP:  # Adam's
        stepped(vector, 1)
    else:
        with pytest.raises(ValueError, match="side of 5"):
            stepped(vector, 1)


@pytest.mark.parametrize("name", ["class.AdamW", "class.Muon", "class.Adafactor", "papers.lars", "clipped"])
def test_tensors_without_elements_change_nothing(name: str) -> None:
    shapes = [(0, 3), (4, 2), (3, 0)] if name == "class.Muon" else [(0,), (4, 2), (3, 0)]
    pair = twin(make_of(name), text_of(name), shapes, torch.float32)
    for own in pair:
        stepped(own, 4)
    assert differences(*pair) == []


def test_total_waits_for_tensors_that_ask_for_other_things_first() -> None:
    @sr.rule
    def whitened(theta: Any, g: Any, *, lr: float = 0.1, t: Any) -> Any:
        step = sr.where((t - 1) % 2 == 0, sr.inverse_root(g @ sr.transpose(g), 2, eps=1e-3) @ g, g)
        return theta - lr * step / (1 + sr.global_norm(step))

    text = sr.export(whitened)
    assert "if " in text.partition("def whitened(")[2].partition("def ")[0]
    pair = twin(lambda groups: whitened.optimizer(groups, backend="eager"), text, MATRICES, torch.float32)
    for own in pair:
        stepped(own, 12)  # of which one tensor misses some
    for a, b in zip(*(own.param_groups[0]["params"] for own in pair), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


# torch's protocol --------------------------------------------------------------------------------


def test_copies_pickles_schedulers_and_hooks_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exported_adamw.py").write_text(text_of("class.AdamW"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    from exported_adamw import AdamW  # type: ignore[import-not-found]

    optimizer = AdamW(two_groups(parameters(SHAPES)), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    stepped(optimizer, 2)
    schedule.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert len(calls) == 2
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):  # noqa: S301
        stepped(other, 3, first=2)
        again = copy.deepcopy(optimizer)
        stepped(again, 3, first=2)
        assert differences(again, other) == []


def test_bad_numbers_and_tensors_are_refused_in_words() -> None:
    cls: Any = loaded(text_of("class.AdamW"))
    with pytest.raises(ValueError, match=r"beta2 is 1\.0.*at least 0 and below 1"):
        cls(parameters(SHAPES), betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="lr is nan"):
        cls(parameters(SHAPES), lr=float("nan"))
    (p,) = parameters([(3, 2)])
    p.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        cls([p]).step()
    q = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    q.grad = torch.ones_like(q)
    with pytest.raises(RuntimeError, match="view_as_real"):
        cls([q]).step()


# The text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUBJECTS)
def test_file_imports_torch_alone_and_is_short(name: str) -> None:
    text = text_of(name)
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {alias.name for node in imports for alias in node.names} <= {"torch", "math"}
    assert text.count("\n") <= 300
    assert "steprule" not in ast.unparse(ast.parse(text)).partition('"""')[2].partition('"""')[2]


def test_files_are_clean_and_formatted(tmp_path: Path) -> None:
    """All of them by ruff, at the width of this project."""
    for name in SUBJECTS:
        (tmp_path / f"{name.replace('.', '_').lower()}.py").write_text(text_of(name), encoding="utf-8")
    (tmp_path / "ruff.toml").write_text(SETTINGS, encoding="utf-8")
    for command in (["check", "--no-cache"], ["format", "--check", "--diff", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]


def test_header_says_formula_source_licence_and_command() -> None:
    text = sr.export(sr.optim.AdamW, lr=3e-4, clip=1.0)
    head = text.partition("import")[0]
    for words in (
        "θₜ = ",
        "Loshchilov & Hutter, 2019",
        "MIT",
        f"steprule {sr.__version__}",
        "sr.export(sr.optim.AdamW",
    ):
        assert words in head


def test_header_ends_no_docstring() -> None:
    @sr.rule
    def odd(theta: Any, g: Any, *, lr: float = 0.1) -> Any:
        r'''A step (\theta, C:\new) that says """so""".'''
        return theta - lr * g

    text = sr.export(odd)
    assert r"C:\new) that says '''so'''." in ast.get_docstring(ast.parse(text))  # type: ignore[operator]
    stepped(loaded(text)(parameters(SHAPES)), 1)  # type: ignore[call-arg]


def test_what_a_file_cannot_have_is_refused() -> None:
    with pytest.raises(BackendError, match="8 bits"):
        sr.export(board.adam, state="8bit")
    with pytest.raises(BackendError, match="remainders"):
        sr.export(board.adam, rounding="compensated")
    with pytest.raises(BackendError, match="NaN"):
        sr.export(board.adam, nonfinite="skip")
    with pytest.raises(BackendError, match="no target"):
        sr.export(board.adam, "cobol")  # type: ignore[arg-type]
    with pytest.raises(HyperparameterError, match="no hyperparameter"):
        sr.export(board.adam, rate=1.0)
    with pytest.raises(RuleError, match="no rule"):
        sr.export(3)  # type: ignore[arg-type]


# Golden files and random rules -------------------------------------------------------------------

READ = ("class.AdamW", "board.nesterov", "class.Muon", "class.Adafactor", "clipped", "papers.sgld")
"""Files that were committed, so that what changes in them shows, and can be read."""
GOLDEN = Path(__file__).parents[1] / "golden" / "export_torch"


def committed(name: str) -> str:
    return sr.export(SUBJECTS[name]).replace(f"steprule {sr.__version__}", "steprule")


@pytest.mark.parametrize("name", READ)
def test_file_is_as_committed(name: str) -> None:
    """`python tests/export/test_torch_file.py` writes them anew."""
    assert (GOLDEN / f"{name}.py").read_text(encoding="utf-8") == committed(name)
    assert {path.stem for path in GOLDEN.iterdir()} == set(READ)


@given(graph=graphs(), seed=st.integers(0, 2**32 - 1))
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)
def test_random_rules_compute_what_eager_does(graph: Graph, seed: int) -> None:
    shapes = [(5,), (), (3, 4), (33,)]
    data, plan = problem(seed, shapes), schedule(graph)
    truth = run(plan, data, "eager", torch.float32)
    reading = {name: f'group["{name}"]' for name in HYPERS}
    function = written("random_rule", lowered(plan), reading, labels([plan]))
    space: dict[str, Any] = {}
    exec(complete(f"{function.text}\n\nUSED = lambda: (together, totals, called)\n"), space)  # noqa: S102
    shared = torch.tensor(0.75, dtype=torch.float64)
    states, tensors, updates = [], [], []
    for place, (arrays, numbers) in enumerate(zip(data.arrays, data.numbers, strict=True)):
        state = {name: torch.tensor(value, dtype=torch.float32) for name, value in arrays.items()}
        state |= {"h": torch.tensor(numbers["h"], dtype=torch.float64), "step": torch.tensor(2.0), "u": shared}
        states.append(state)
        tensors.append(state["theta"])
        extra = [place] if ", place" in function.text.partition("\n")[0] else []
        updates.append(space["random_rule"](state["theta"], state["g"], state, data.numbers[place % 2], *extra))
        assert (updates[-1] is not None) == function.asks
    if function.asks:
        space["together"](updates, space["called"], space["totals"])
    for state, own in zip(states, truth, strict=True):
        for name, value in own.items():
            # A float64 number before elements may differ in its last bit (see `differences`), and elements round it.
            assert np.allclose(state[name].double().numpy(), value, rtol=1e-5, atol=1e-6, equal_nan=True), name


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for one in READ:
        (GOLDEN / f"{one}.py").write_text(committed(one), encoding="utf-8")
