"""The kernel cache: private, checked, shared between processes, and never needed for a right result."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import steprule as sr
from child import PATIENCE
from steprule import board, chain
from steprule.backends import cache
from steprule.optim import fast_check

pytestmark = pytest.mark.cpu


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a cache of its own, and a process that has loaded nothing but the loop of `optim.fast_check`."""
    fast_check.loop()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(cache, "_told", set())
    return tmp_path / "cache" / "kernels"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold one sound entry, compiled once for all tests that damage it."""
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.mktemp("pristine")
        fast_check.loop()
        patch.setenv(cache.VARIABLE, str(base))
        patch.setattr(cache, "_loaded", {})
        step()
    return next((base / "kernels").iterdir())


def step() -> tuple[int, int]:
    """Take one step as a fresh process would; return how many kernels were compiled and loaded for it."""
    cache._loaded.clear()
    before = (cache.counts.compiled, cache.counts.loaded)
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    parameter.grad = torch.tensor([2.0, 4.0])
    board.sgd.optimizer([parameter], lr=0.5).step()
    assert parameter.tolist() == [0.0, 0.0]
    return cache.counts.compiled - before[0], cache.counts.loaded - before[1]


def test_a_kernel_that_was_just_compiled_gives_the_bits_of_one_that_was_linked() -> None:
    """Numba optimises what one function calls twice where it is stored, and once where it is run at first."""

    @sr.rule
    def totals(theta, g, a=sr.slot(rank="tensor"), b=sr.slot(rank="tensor"), *, lr=0.1):
        return theta - lr * g / (1 + sr.norm(g)) * sr.mean(g) / sr.max(abs(g)), sr.sum(g), sr.max(g)

    def step_totals() -> float:
        cache._loaded.clear()
        generator = torch.Generator().manual_seed(0)
        parameter = torch.nn.Parameter(torch.zeros(40_000, dtype=torch.float64))
        parameter.grad = torch.randn(40_000, dtype=torch.float64, generator=generator)
        optimizer = totals.optimizer([parameter], backend="numba_cpu")
        optimizer.step()
        return float(optimizer.state[parameter]["a"])

    before = cache.counts.compiled
    assert step_totals().hex() == step_totals().hex()
    assert cache.counts.compiled == before + 1


def entries(place: Path) -> list[Path]:
    return sorted(place.iterdir())


def run(command: str, **environment: str) -> str:
    """Run a Python command in a process of its own; return what it printed last."""
    env = {**os.environ, **environment}
    arguments = [sys.executable, "-W", "error", "-c", command]
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


STEP = """
import torch, steprule as sr
from steprule.backends import cache
from steprule.optim import binding
binding.loop = lambda: None  # of all kernels, the rule's is counted here
parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
parameter.grad = torch.tensor([2.0, 4.0])
sr.board.sgd.optimizer([parameter], lr=0.5).step()
assert parameter.tolist() == [0.0, 0.0], parameter
clipped = sr.Optimizer([parameter], sr.board.momentum(beta=0), lr=1.0, clip=sr.board.clip_norm)
if not cache.numba.config.DISABLE_JIT:
    print(cache.counts.compiled, cache.counts.loaded)
    raise SystemExit
for gradient, moved in (([0.0, 0.0], [0.0, 0.0]), ([3.0, 4.0], [-0.6, -0.8])):
    parameter.grad = torch.tensor(gradient)
    clipped.step()
    assert torch.allclose(parameter, torch.tensor(moved)), parameter
print(cache.counts.compiled, cache.counts.loaded)
"""


# Where -------------------------------------------------------------------------------------------------


def test_the_variable_moves_the_cache_and_nobody_else_may_enter(place: Path) -> None:
    assert step() == (1, 0)
    assert step() == (0, 1)
    (entry,) = entries(place)
    for directory in (place, entry):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in entry.iterdir()) == ["MANIFEST.json", "kernel.o", "kernel.py"]
    assert "theta - lr * g" in (entry / "kernel.py").read_text(encoding="utf-8")


@pytest.mark.hostile("C3")
def test_a_world_writable_cache_is_not_used_and_says_so(place: Path, pristine: Path) -> None:
    place.mkdir(parents=True)
    shutil.copytree(pristine, place / pristine.name)
    place.chmod(0o777)
    with pytest.warns(UserWarning, match="not private to this user, so kernels stay in memory"):
        assert step() == (1, 0)
    assert entries(place) == [place / pristine.name]


@pytest.mark.hostile("C3")
def test_a_cache_of_somebody_else_is_not_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: place.stat().st_uid + 1)
    with pytest.warns(UserWarning, match="not private"):
        assert step() == (1, 0)
    assert entries(place) == []


@pytest.mark.hostile("C3")
def test_a_linked_cache_directory_is_not_used(place: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place.parent.mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="not private"):
        assert step() == (1, 0)
    assert entries(tmp_path / "elsewhere") == []


@pytest.mark.hostile("C3")
@pytest.mark.parametrize("obstacle", ["file", "parent file", "no home", "read-only"])
def test_without_a_directory_kernels_stay_in_memory(
    obstacle: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if obstacle == "file":
        place.parent.mkdir()
        place.write_text("in the way")
    elif obstacle == "parent file":
        place.parent.write_text("in the way")
    elif obstacle == "no home":
        monkeypatch.delenv(cache.VARIABLE)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("HOME", raising=False)

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    else:
        place.mkdir(parents=True, mode=0o700)
        monkeypatch.setattr(cache.tempfile, "mkdtemp", read_only)
    with pytest.warns(UserWarning, match="so kernels stay in memory(.|\n)*help: .* set STEPRULE_CACHE"):
        assert step() == (1, 0)
    assert step() == (1, 0)  # without a word: it is told once a process
    assert not place.is_dir() or entries(place) == []


def read_only(*_: Any, **__: Any) -> str:
    raise OSError(30, "Read-only file system")


def test_without_home_the_cache_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert step() == (1, 0)
    assert len(entries(tmp_path / "steprule" / "kernels")) == 1


def test_a_tilde_in_the_variable_is_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(cache.VARIABLE, "~/mine")
    assert cache.directory() == tmp_path / "mine" / "kernels"
    assert not Path("~").exists()


@pytest.mark.hostile("C3")
def test_with_umask_000_nothing_is_open_to_others(
    pristine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "some" / "where"))
    seen: list[Path] = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda own, to: (seen.extend([own, *own.iterdir()]), rename(own, to)))
    before = os.umask(0)
    try:
        place = cache.directory()
        assert place is not None
        code, source = (pristine / "kernel.o").read_bytes(), (pristine / "kernel.py").read_text(encoding="utf-8")
        cache._write(place, pristine.name, source, "symbol", code)
    finally:
        os.umask(before)
    made = list((tmp_path / "some").rglob("*"))
    assert len(made) == 6
    assert len(seen) == 4
    assert {path.stat().st_mode & 0o077 for path in [tmp_path / "some", *made]} == {0}


# What is removed ---------------------------------------------------------------------------------------


def put(place: Path, name: str, days: float, size: int = 10) -> Path:
    entry = place / name
    entry.mkdir(mode=0o700, parents=True)
    (entry / "kernel.o").write_bytes(bytes(size))
    then = time.time() - days * 86_400
    os.utime(entry, (then, then))
    return entry


def test_entries_that_are_old_or_too_much_are_removed_when_one_is_written(
    place: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "KEPT_BYTES", 10_000)
    ages = {"a": 91, "b": 80, "c": 2, "d": 1}
    old, late, middle, early = (put(place, name * 32, days, 4_000) for name, days in ages.items())
    others = put(place, "not-an-entry", 1_000)
    link = place / ("e" * 32)
    link.symlink_to(others)
    cache._sweep(place)
    assert [path.exists() for path in (old, late, middle, early, others, link)] == [0, 0, 1, 1, 1, 1]


def test_linking_an_entry_keeps_it(place: Path, pristine: Path) -> None:
    place.mkdir(parents=True, mode=0o700)
    entry = Path(shutil.copytree(pristine, place / pristine.name))
    os.utime(entry, (0, 0))
    assert step() == (0, 1)
    cache._sweep(place)
    assert step() == (0, 1)


# Damage ------------------------------------------------------------------------------------------------


def in_file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        (entry / name).write_bytes(change((entry / name).read_bytes()))

    return damage


def in_manifest(**values: Any) -> Callable[[Path], None]:
    return in_file("MANIFEST.json", lambda data: json.dumps({**json.loads(data), **values}).encode())


class _Bomb:
    """A pickle that leaves a file behind when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bomb-went-off",)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "object truncated": in_file("kernel.o", lambda data: data[: len(data) // 2]),
    "object empty": in_file("kernel.o", lambda data: b""),
    "object garbled": in_file("kernel.o", lambda data: data[:500] + bytes(b ^ 0x5A for b in data[500:])),
    "one bit flipped": in_file("kernel.o", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
    "source changed": in_file("kernel.py", lambda data: data.replace(b"lr", b"lR")),
    "source not text": in_file("kernel.py", lambda data: b"\xff\xfe" + data),
    "manifest a pickle": in_file("MANIFEST.json", lambda data: pickle.dumps(_Bomb())),
    "manifest truncated": in_file("MANIFEST.json", lambda data: data[:20]),
    "manifest a list": in_file("MANIFEST.json", lambda data: b"[1, 2]"),
    "manifest deep": in_file("MANIFEST.json", lambda data: b"[" * 100_000),
    "another symbol": in_manifest(symbol="malloc"),
    "empty symbol": in_manifest(symbol=""),
    "no symbol": in_manifest(symbol=None),
    "a digest of another object": in_manifest(sha256="0" * 64),
    "object missing": lambda entry: (entry / "kernel.o").unlink(),
    "everything missing": lambda entry: (shutil.rmtree(entry), entry.mkdir(mode=0o700)),
    "open to all": lambda entry: entry.chmod(0o755),
}


@pytest.mark.hostile("C2")
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_never_linked_and_is_replaced(
    kind: str, place: Path, pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place.mkdir(parents=True, mode=0o700)
    shutil.copytree(pristine, place / pristine.name)
    DAMAGE[kind](place / pristine.name)
    assert step() == (1, 0)
    assert step() == (0, 1)
    assert [path.name for path in entries(place)] == [pristine.name]
    assert not Path("bomb-went-off").exists()


@pytest.mark.hostile("C2")
@pytest.mark.parametrize("what", ["entry", "kernel.o", "MANIFEST.json", "dangling"])
def test_a_symbolic_link_is_not_followed(what: str, place: Path, pristine: Path, tmp_path: Path) -> None:
    """What is linked to belongs to whoever made the link, so it is neither read nor removed."""
    place.mkdir(parents=True, mode=0o700)
    target, entry = tmp_path / "target", place / pristine.name
    shutil.copytree(pristine, target)
    if what == "entry":
        entry.symlink_to(target)
    elif what == "dangling":
        entry.symlink_to(tmp_path / "nowhere")
    else:
        shutil.copytree(pristine, entry)
        (entry / what).unlink()
        (entry / what).symlink_to(target / what)
    assert step() == (1, 0)
    assert sorted(path.name for path in target.iterdir()) == ["MANIFEST.json", "kernel.o", "kernel.py"]
    assert not (tmp_path / "nowhere").exists()
    assert step() == (0, 1)


@pytest.mark.hostile("C2")
def test_an_entry_of_another_kernel_is_refused(place: Path, pristine: Path) -> None:
    place.mkdir(parents=True, mode=0o700)
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    parameter.grad = torch.ones(2, dtype=torch.float64)
    board.gd.optimizer([parameter]).step()
    (other,) = entries(place)
    other.rename(place / pristine.name)
    assert step() == (1, 0)
    assert step() == (0, 1)


# Processes ---------------------------------------------------------------------------------------------


@pytest.mark.hostile("C1")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_processes_that_compile_at_once_leave_one_entry_that_the_next_one_loads(place: Path) -> None:
    torch.set_num_threads(1)
    ready, gate = os.pipe()
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            os.close(gate)
            os.read(ready, 1)  # until the parent lets all of them go at once
            os._exit(0 if step() in {(1, 0), (0, 1)} else 1)
        children.append(child)
    os.close(gate)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    os.close(ready)
    (entry,) = entries(place)
    assert cache._read(entry, (entry / "kernel.py").read_text(encoding="utf-8")) is not None
    assert run(STEP) == "0 1"


@pytest.mark.hostile("C8")
def test_without_a_compiler_kernels_run_as_python(place: Path) -> None:
    """Numba's own switch; a zero gradient divides by zero on the way, which is no warning."""
    assert run(STEP, NUMBA_DISABLE_JIT="1") == "0 0"
    assert not place.exists()


# What compiles nothing ---------------------------------------------------------------------------------


def test_no_value_shape_count_or_group_compiles_anything() -> None:
    def parameters(*shapes: tuple[int, ...]) -> list[torch.nn.Parameter]:
        made = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        for parameter in made:
            parameter.grad = torch.randn_like(parameter)
        return made

    def total() -> int:
        return cache.counts.compiled + cache.counts.loaded

    program = chain(sr.clip_global_norm, board.adam)
    first = sr.Optimizer(parameters((3,)), program, lr=1e-3)
    before = total()
    first.step()
    assert total() == before + 1
    groups = [{"params": parameters((2, 3), ()), "lr": 0.5}, {"params": parameters((0,), (300_000,)), "beta1": 0.0}]
    again = chain(sr.clip_global_norm(max_norm=0.1), board.adam(eps=0))
    second = sr.Optimizer(groups, again, lr=torch.tensor(1e-2))
    for round_ in range(3):
        second.param_groups[0]["lr"] = 0.1 * round_
        second.param_groups[1].update(beta2=0.5 + 0.1 * round_, eps=1e-3, max_norm=float(round_))
        second.step()
        second.add_param_group({"params": parameters((4, 1, round_ + 1))})
        second.param_groups[0]["params"][0].grad = None
    torch.set_num_threads(1)
    second.step()
    assert total() == before + 1
