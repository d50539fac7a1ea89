"""Files of Triton: they step as the library's GPU kernels do, bit for bit; under Triton's interpreter."""

from __future__ import annotations

import ast
import copy
import io
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from triton_file import ALLOWED, LIBRARY, exported, fill, load, maker, parameters, same, step

import steprule as sr
from steprule import board, chain, clip_global_norm, norm, rule
from steprule.backends.triton_build import Build, building
from steprule.backends.triton_gpu import interpreted
from steprule.errors import BackendError
from steprule.export.triton_kernels import FileKernels
from steprule.export.triton_parts import HyperInGroup, Parts, _check_program
from steprule.graph import node
from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph
from steprule.graph.show import formula
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule
from steprule.rule import Formula, Transform, floor, numel, tanh
from steprule.zoo import adam, adaptive, descent, factored, free, papers
from strategies import HYPERS, Problem, graphs, problem
from test_random_rules import _differs, _well_conditioned

pytestmark = [pytest.mark.interp, pytest.mark.skipif(not interpreted(), reason="a GPU is here: `-m gpu` runs on it")]

GPU = "triton_gpu"
triton_file_of_ours: Any = import_module("steprule.export.triton_file")
SHAPES = ((), (9,), (3, 5))
REFUSED = {"mars_exact": "other points", "adafactor": "row or column", "came": "row or column", "sm3": "row or column",
           "adam_mini": "row or column", "prodigy": "lines"}  # fmt: skip
POWERS = {"nadam": ("mu_product",), "schedule_free_adamw": ("weight_sum",), "schedule_free_sgd": ("weight_sum",)}
"""Host slots that are made of powers."""


def rules() -> dict[str, Any]:
    """List the rules of the board and the zoo that need no functions of matrices, and some classes."""
    found: dict[str, Any] = {}
    for module in (board, descent, adaptive, adam, papers, free, factored):
        own = {name: value for name, value in sorted(vars(module).items()) if isinstance(value, Formula)}
        found |= {f"{module.__name__.rpartition('.')[2]}.{name}": value for name, value in own.items()
                  if value.name == name and not isinstance(value, Transform)}  # fmt: skip
    return found


RULES = {name: own for name, own in rules().items() if name.partition(".")[2] not in REFUSED}
CHAINS = {
    "clipped": (chain(clip_global_norm(max_norm=0.5), adam.adam), {}),
    "of the board": (chain(board.clip_norm, board.clip_component, board.momentum), {}),
    "AdamW": (sr.optim.AdamW, {"clip": 1.0, "amsgrad": True, "maximize": True}),
    "Adagrad": (sr.optim.Adagrad, {"initial_accumulator_value": 0.5, "lr_decay": 0.1, "weight_decay": 0.1}),
    "AdEMAMix": (sr.optim.AdEMAMix, {}),
    "NAdam": (sr.optim.NAdam, {"weight_decay": 0.1}),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let few elements fill several chunks; and give the interpreter what it lacks of NVIDIA's library."""
    from triton.language.extra import libdevice

    from steprule.backends import triton_helpers

    for theirs, own in LIBRARY.items():
        monkeypatch.setattr(libdevice, theirs, getattr(triton_helpers, own))
    with building(Build(chunk=8, block=4, rows=2)):
        yield


def pair(
    what: Any, folder: Path, shapes: Any = SHAPES, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[Any, Any, list[Any], list[Any]]:
    """Return the optimiser of a file and ours, in two groups of different rates, and their parameters."""
    mine, ours = parameters(*shapes, dtype=dtype), parameters(*shapes, dtype=dtype)
    found = []
    for make, params in (
        (exported(what, folder, dtype, **options), mine),
        (maker(what, backend=GPU, **options), ours),
    ):
        found.append(make([{"params": params[:1], "lr": 0.25}, {"params": params[1:]}]))
    return (*found, mine, ours)


def follow(what: Any, folder: Path, steps: int = 3, host: tuple[str, ...] = (), **options: Any) -> None:
    """Take the same steps with both, the second without one gradient, and compare after each."""
    optimizer, other, mine, ours = pair(what, folder, **options)
    loss = "loss" in what.hypers if isinstance(what, Formula) else False
    for number in range(steps):
        fill(mine, ours, number, absent=1 if number == 1 and len(mine) > 1 else -1)
        for one in (optimizer, other):
            step(one, **({"loss": 2.5} if loss or getattr(what, "graph", board.gd.graph).uses_loss else {}))
        same(optimizer, other, host)


# What it computes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_elements_steps_as_the_interpreter_does(name: str, tmp_path: Path) -> None:
    """With two groups, several chunks, and a gradient that is absent once."""
    follow(RULES[name], tmp_path, host=POWERS.get(name.partition(".")[2], ()))


@pytest.mark.parametrize("name", CHAINS)
def test_chains_and_classes_step_as_the_interpreter_does(name: str, tmp_path: Path) -> None:
    what, options = CHAINS[name]
    follow(what, tmp_path, host=("mu_product",) if name == "NAdam" else (), **options)


def test_tensors_without_elements_change_nothing(tmp_path: Path) -> None:
    follow(chain(clip_global_norm(max_norm=0.5), papers.lars), tmp_path, shapes=((0,), (9,), (2, 0)))
    follow(board.adam, tmp_path, shapes=((0,),))


@pytest.mark.parametrize("what", [board.gd, adam.adam], ids=lambda own: own.name)
def test_two_hundred_steps_are_the_same_bit_for_bit(what: Any, tmp_path: Path) -> None:
    follow(what, tmp_path, steps=200, shapes=((3,),))


@rule
def everything(theta, g, m=sr.slot(init="theta"), k=sr.slot(init=0.5, rank="tensor"), *, lr=0.1, t):
    m = 0.5 * m + 0.25 * sr.where(abs(g) > 0.5, tanh(g), floor(g) % 2)
    k = sr.maximum(k, sr.max(g) / (1 + t))
    return theta - lr * (m + 0.01 * sr.normal()) / (k + norm(m)) * sr.atan2(g, theta) / numel(g), m, k


def test_a_rule_with_nearly_all_operations_steps_as_the_interpreter_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots that start as the parameter, or are one number a tensor; random numbers; sizes, greatest elements."""
    monkeypatch.setattr(triton_file_of_ours, "LONGEST", 1000)
    follow(everything, tmp_path, seed=2**63 + 5)


SIZES = [(5,), (), (3, 4), (0,), (17,)]


def test_random_rules_mean_in_files_what_they_mean_elsewhere(tmp_path: Path) -> None:
    """One step of each, in float64, with a group for each tensor; host slots, too."""
    modules = count()

    @hypothesis.seed(7)
    @settings(max_examples=40, derandomize=False, phases=[Phase.generate])
    @given(graph=graphs(), seed=st.integers(0, 2**16))
    def agree(graph: Graph, seed: int) -> None:
        data = problem(seed, SIZES)
        truth = evaluate(graph, data.arrays, data.numbers)
        assume(_well_conditioned(graph, data, truth, 1e-11))
        shaken = (evaluate(_shaken(graph, by), data.arrays, data.numbers) for by in (1e-12, -1e-12))
        assume(not any(_differs(truth, own, 1e-9) for own in shaken))
        program, subject = lowered(schedule(graph), "float64"), SimpleNamespace(name="Drawn", formulas=(), command="")
        try:
            _check_program(subject, program)  # type: ignore[arg-type]
        except BackendError:
            assume(False)
        numbers = tuple(HyperInGroup(own, own.name) for own in graph.hypers)
        kernels, defaults = FileKernels(program, Build(chunk=8, block=4, rows=2), 0), dict.fromkeys(HYPERS, 1.0)
        parts = Parts(subject, program, kernels, numbers, defaults, {}, torch.float64, False)  # type: ignore[arg-type]
        module = load(triton_file_of_ours._written(parts, told=True), tmp_path, f"drawn_{next(modules)}")
        assert not _differs(truth, _run(module.Drawn, graph, data), 1e-8), formula(graph)

    agree()


ROUNDED = {"add", "sub", "mul", "div", "sqrt", "pow", "exp", "log", "tanh", "atan2"}


def _shaken(graph: Graph, by: float) -> Graph:
    """Return a graph whose results are all a little greater: where that flips a choice, rounding may, too."""
    image: dict[node.Node, node.Node] = {}
    for own in node.topological(graph.roots):
        new = node.make(own.op, *map(image.__getitem__, own.inputs), attr=own.attr) if own.inputs else own
        rounded = own.op in ROUNDED or own.reduces
        image[own] = node.make("mul", new, node.const(1 + by)) if rounded else new
    slots = tuple(map(image.__getitem__, graph.new_slots))
    return replace(graph, new_parameter=image[graph.new_parameter], new_slots=slots)


def _run(make: Any, graph: Graph, data: Problem) -> list[dict[str, np.ndarray]]:
    """Take the step of a problem with a file's optimiser; host slots and counts are those of two groups."""
    params = [torch.nn.Parameter(torch.tensor(own["theta"])) for own in data.arrays]
    numbers = [data.numbers[place % 2] for place in range(len(params))]
    optimizer = make([{"params": [p], **{name: own[name] for name in HYPERS}}
                      for p, own in zip(params, numbers, strict=True)])  # fmt: skip
    for p, own, row in zip(params, data.arrays, numbers, strict=True):
        p.grad = torch.tensor(own["g"])
        state = optimizer.state[p] = optimizer.fresh(p, optimizer.param_groups[0])
        for name in state:
            state[name].copy_(torch.tensor(row["t"] - 1 if name == "step" else row.get(name, own.get(name))))
    step(optimizer)
    names = [slot.name for slot in graph.slots]
    return [{"theta": p.detach().numpy(), **{name: optimizer.state[p][name].numpy() for name in names}} for p in params]


@rule
def bracketing(theta, g, *, lr=0.1, beta=0.3, gamma=0.7):
    scale = lr / (beta / gamma) - (beta - (gamma - lr)) + (beta + gamma) ** (lr - beta)
    return (theta - (g - (theta - scale * g))) * sr.norm(sr.uniform() - 0.5)


def test_brackets_keep_what_is_taken_from_what_and_a_pass_may_read_nothing(tmp_path: Path) -> None:
    follow(bracketing, tmp_path)


def test_one_number_for_all_tensors_is_that_of_those_which_have_been_stepped(tmp_path: Path) -> None:
    """The first parameter, without a gradient at first, joins later."""
    optimizer, other, mine, ours = pair(free.dog, tmp_path)
    for number in range(3):
        fill(mine, ours, number, absent=0 if number == 0 else -1)
        step(optimizer)
        step(other)
        same(optimizer, other)


KINDS = {
    "float64": (torch.float64, {}),
    "float16": (torch.float16, {}),
    "bfloat16, slots float32": (torch.bfloat16, {"state": "float32"}),
    "bfloat16, stochastic": (torch.bfloat16, {"rounding": "stochastic", "seed": 7}),
    "bfloat16, compensated": (torch.bfloat16, {"compensated": True}),
    "float32, slots bfloat16": (torch.float32, {"state": "bfloat16"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_formats_step_as_the_interpreter_does(kind: str, tmp_path: Path) -> None:
    dtype, options = KINDS[kind]
    follow(adaptive.rmsprop, tmp_path, dtype=dtype, **options)


# torch's optimiser --------------------------------------------------------------------------------------


def test_checkpoints_go_both_ways_in_mid_training(tmp_path: Path) -> None:
    """Slots keep their types beside narrower parameters, though torch would cast them; float64 counts, too."""
    options = {"state": "float32", "clip": 1.0}
    optimizer, other, mine, ours = pair(adam.adam, tmp_path, dtype=torch.bfloat16, **options)
    fill(mine, ours, 0, absent=2)
    step(optimizer)
    step(other)
    saved = []
    for one in (optimizer, other):
        file = io.BytesIO()
        torch.save(one.state_dict(), file)
        file.seek(0)
        saved.append(torch.load(file, weights_only=True))
    again, fourth = parameters(*SHAPES, dtype=torch.bfloat16), parameters(*SHAPES, dtype=torch.bfloat16)
    for new, old in ((again, mine), (fourth, ours)):
        for target, source in zip(new, old, strict=True):
            target.data.copy_(source.data)
    crossed = [type(optimizer)([{"params": again[:1]}, {"params": again[1:]}]),
               maker(adam.adam, backend=GPU, **options)([{"params": fourth[:1]}, {"params": fourth[1:]}])]  # fmt: skip
    crossed[0].load_state_dict(saved[1])
    crossed[1].load_state_dict(saved[0])
    assert [group["lr"] for group in crossed[0].param_groups] == [0.25, 1e-3]
    for number in (1, 2):
        for one, params in zip((optimizer, other, *crossed), (mine, ours, again, fourth), strict=True):
            fill(params, params, number)
            step(one)
    same(optimizer, other)
    same(crossed[0], other)
    same(optimizer, crossed[1])


def test_groups_of_a_class_s_checkpoint_get_the_numbers_that_they_lack(tmp_path: Path) -> None:
    """Those of our classes do not hold what a clipping takes."""
    optimizer, other, mine, ours = pair(sr.optim.AdamW, tmp_path, clip=0.5)
    fill(mine, ours, 0)
    step(other)
    optimizer.load_state_dict(copy.deepcopy(other.state_dict()))
    assert [group["max_norm"] for group in optimizer.param_groups] == [0.5, 0.5]
    for own, one in zip(mine, ours, strict=True):
        own.data.copy_(one.data)
    fill(mine, ours, 1)
    step(optimizer)
    step(other)
    same(optimizer, other)


def test_closures_schedulers_copies_and_pickles_are_torch_s(tmp_path: Path) -> None:
    optimizer, other, mine, ours = pair(board.adam, tmp_path)
    schedules = [torch.optim.lr_scheduler.StepLR(one, 1, gamma=0.5) for one in (optimizer, other)]
    for number in range(3):
        fill(mine, ours, number)
        for one, rates in zip((optimizer, other), schedules, strict=True):
            step(one, closure=lambda number=number: torch.tensor(float(number)))
            rates.step()
    same(optimizer, other)
    assert optimizer.step(lambda: 4.5) == 4.5
    other.step()
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):  # noqa: S301
        params = [parameter for group in copied.param_groups for parameter in group["params"]]
        assert params[0].data_ptr() != mine[0].data_ptr()
        fill(params, ours, 4)
        step(copied)
        assert copied.state[params[0]]["step"] == 5 if "step" in copied.state[params[0]] else True
    step(other)
    same(copied, other)


def test_a_rule_that_needs_the_loss_is_given_it(tmp_path: Path) -> None:
    optimizer, other, mine, ours = pair(free.polyak, tmp_path)
    fill(mine, ours, 0)
    with pytest.raises(ValueError, match="needs the loss"):
        optimizer.step()
    for one in (optimizer, other):
        step(one, closure=lambda: torch.tensor(3.0))
    same(optimizer, other)


def _strided(p: Any) -> None:
    p.grad = torch.randn(5, 3).T


def _resized(p: Any) -> None:
    p.grad.untyped_storage().resize_(4)


WRONG = {
    "contiguous": _strided,
    "float64": lambda p: setattr(p, "data", p.data.double()),
    r"\(2, 7\)": lambda p: p.__setattr__("data", torch.ones(2, 7)),
    "Sparse|sparse|plain": lambda p: setattr(p, "grad", torch.ones(3, 5).to_sparse()),
    "element by element": _resized,
}


@pytest.mark.parametrize("told", WRONG)
def test_tensors_that_kernels_cannot_take_are_refused_and_nothing_is_written(told: str, tmp_path: Path) -> None:
    optimizer, _, mine, ours = pair(adaptive.rmsprop, tmp_path)
    fill(mine, ours, 0)
    before = mine[1].detach().clone()
    WRONG[told](mine[2])
    with pytest.raises((ValueError, RuntimeError), match=told):
        step(optimizer)
    assert torch.equal(mine[1], before)


def test_parameters_on_another_device_are_refused(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.empty(3, device="meta"))
    parameter.grad = torch.empty(3, device="meta")
    with pytest.raises(ValueError, match="run on a GPU, and parameters are on meta"):
        exported(board.gd, tmp_path)([parameter]).step()


def test_a_slot_that_is_another_one_is_refused(tmp_path: Path) -> None:
    optimizer, _, mine, ours = pair(board.momentum, tmp_path)
    fill(mine, ours, 0)
    step(optimizer)
    optimizer.state[mine[2]]["m"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"slot m .*\(2,\)"):
        step(optimizer)


def test_numbers_out_of_range_are_refused_in_groups_and_in_steps(tmp_path: Path) -> None:
    make = exported(adam.adam, tmp_path)
    with pytest.raises(ValueError, match=r"beta1 is 1.0; give a finite number in \[0, 1\)"):
        make(parameters((3,)), beta1=1.0)
    optimizer = make(parameters((3,)), lr=torch.tensor(0.5))
    with pytest.raises(ValueError, match="eps is nan"):
        optimizer.add_param_group({"params": parameters((2,)), "eps": float("nan")})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0]["lr"] = -1.0
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    with pytest.raises(ValueError, match="lr is -1"):
        optimizer.step()
    saved = {**optimizer.state_dict(), "state": {0: {"step": 1.0, "exp_avg": torch.ones(3)}}}
    with pytest.raises(ValueError, match="no exp_avg_sq"):
        optimizer.load_state_dict(saved)


# The text -----------------------------------------------------------------------------------------------


TWO = (board.gd, board.adam)


@rule
def sharp(theta, g, *, lr=0.1):
    return theta - lr * sr.orthogonalize(g)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        *((rules()[name], told) for name in rules() for own, told in REFUSED.items() if name.endswith(f".{own}")),
        (sharp, "functions of matrices"),
        (sr.optim.Muon, "functions of matrices"),
        (sr.optim.Adafactor, "another rule"),
        (sr.sam(board.momentum), "other points"),
        (maker(adam.adam, state="8bit")(parameters((64, 64))), "8 bits"),
        (maker(adam.adam, nonfinite="skip")(parameters((2,))), "nonfinite"),
        (sr.Optimizer([{"params": parameters((2,)), "rule": own} for own in TWO], board.gd), "several rules"),
        (board.gd.optimizer([*parameters((2,)), *parameters((2,), dtype=torch.float64)]), "several types"),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_file_can_do_is_refused_in_three_parts(what: Any, told: str) -> None:
    with pytest.raises(BackendError, match=told) as caught:
        sr.export(what, to="triton")
    assert 'to="torch"' in caught.value.fix
    assert caught.value.where


def texts() -> dict[str, str]:
    """Return files of usual sizes."""
    with building(Build()):
        found = {name: sr.export(own, to="triton") for name, own in RULES.items()}
        return found | {name: sr.export(own, to="triton", **options) for name, (own, options) in CHAINS.items()}


GOLDEN = Path(__file__).parents[1] / "golden" / "export_triton"
READ: dict[str, tuple[Any, dict[str, Any]]] = {
    "AdamW": (sr.optim.AdamW, {"clip": 1.0}),
    "lion": (papers.lion, {"state": "bfloat16"}),
    "lamb": (papers.lamb, {}),
}
"""Files that are committed, so that what changes in them shows, and can be read."""


def written(name: str) -> str:
    """Return one of them, whatever the version."""
    what, options = READ[name]
    with building(Build()):
        text = sr.export(what, to="triton", **options)
    return text.replace(f"Generated by steprule {sr.__version__}:", "Generated by steprule:")


@pytest.mark.parametrize("name", READ)
def test_files_are_those_that_were_committed(name: str) -> None:
    """`python tests/export/test_triton_file.py` writes them."""
    assert (GOLDEN / f"{name}.py").read_text(encoding="utf-8") == written(name)
    assert {path.stem for path in GOLDEN.iterdir()} == set(READ)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Compile the kernels of committed files for sm_90, in a process that does not interpret; return PTX."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_file_compile.py")), str(GOLDEN)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_kernels_of_files_compile_load_widely_and_round_as_they_say(compiled: dict[str, dict[str, str]]) -> None:
    assert set(compiled) == set(READ)
    assert set(compiled["AdamW"]) == {"pass_0", "end_0", "pass_1"}
    for kernels in compiled.values():
        for kernel, text in kernels.items():
            assert not re.search(r"\b(atom|red)\.(global|shared|relaxed)", text)
            assert not re.search(r"\b(div|sqrt|rsqrt)\.(full|approx)", text)
            if kernel.startswith("pass_"):
                assert re.search(r"ld\.global\.v[24]\.b(32|64)", text)
    assert "div.rn.f32" in compiled["AdamW"]["pass_1"]
    assert not re.search(r"fma\.rn\.f32", compiled["AdamW"]["pass_1"])


def test_files_are_formatted_and_faultless_of_300_lines_and_import_torch_and_triton_alone(tmp_path: Path) -> None:
    for name, text in texts().items():
        (tmp_path / f"{name.replace('.', '_').replace(' ', '_')}.py").write_text(text, encoding="utf-8")
        assert text.count("\n") <= 300
        assert "steprule" not in text.partition('"""\n\nimport')[2].replace("steprule's optimiser", "")
        named = [part for part in ast.walk(ast.parse(text)) if isinstance(part, ast.Import | ast.ImportFrom)]
        roots = {(alias.name if isinstance(part, ast.Import) else part.module or "").partition(".")[0]
                 for part in named for alias in part.names}  # fmt: skip
        assert roots == set(ALLOWED)
    for command in (["format", "--check", "--line-length=120"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", command[0], "--isolated", "--no-cache", *command[1:], str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_says_what_it_computes_and_where_that_comes_from() -> None:
    text = sr.export(sr.optim.AdamW, to="triton", clip=1.0, lr=3e-4)
    head = text.partition('"""\n\nimport')[0]
    assert "exp_avgₜ" in head
    assert "Kingma & Ba, 2015" in head
    assert "MIT" in head
    assert "sr.export(sr.optim.AdamW, to='triton', clip=1.0, lr=0.0003)" in head
    assert "def __init__(self, params, lr=0.0003, betas=(0.9, 0.999)" in text
    assert "the point where the gradient is wanted" in sr.export(board.nesterov, to="triton")


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    """A rule's lines and sentences are quoted, and end nothing."""

    @rule
    def quoted(theta, g, *, lr=0.1):
        '''Do what """this""" says \\ there.'''
        return theta - lr * g * len('"""') / 3

    load(sr.export(quoted, to="triton"), tmp_path)


if __name__ == "__main__":
    for name in READ:
        (GOLDEN / f"{name}.py").write_text(written(name), encoding="utf-8")
