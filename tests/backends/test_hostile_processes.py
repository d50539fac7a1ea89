"""Processes and threads that compile, fork, die and end whenever they like; and files that others have touched."""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numba
import pytest
import torch

import steprule as sr
from child import PATIENCE, ended, fork, interpreter, said
from steprule import board
from steprule.backends import cache, compiler

pytestmark = pytest.mark.cpu


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a cache of its own, and a process that has loaded nothing."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_loaded", {})
    return tmp_path / "cache" / "kernels"


def step() -> tuple[int, int]:
    """Take one step as a fresh process would; return how many kernels were compiled and loaded for it."""
    cache._loaded.clear()
    before = (cache.counts.compiled, cache.counts.loaded)
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    parameter.grad = torch.tensor([2.0, 4.0])
    board.sgd.optimizer([parameter], lr=0.5).step()
    assert parameter.tolist() == [0.0, 0.0]
    return cache.counts.compiled - before[0], cache.counts.loaded - before[1]


# Many that compile -----------------------------------------------------------------------------------------


def step_when_told(ready: int, gate: int, compiled: tuple[Any, ...] | None) -> None:
    """Step at the same moment as others; what the parent has `compiled` is as good as compiling it again."""

    def at_once(*_: str) -> Any:
        cache.counts.compiled += 1
        return compiled

    if compiled is not None:
        cache._compile = at_once
    os.close(gate)
    os.read(ready, 1)  # until the parent lets all of them go at once
    assert step() in {(1, 0), (0, 1)}


@pytest.mark.slow
@pytest.mark.hostile("C1")
def test_sixteen_processes_that_compile_one_rule_at_once_leave_one_sound_entry(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifteen have compiled at the same moment and write at once; one compiles and comes when an entry is there."""
    compile_one, compiled = cache._compile, list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_compile", lambda *given: compiled.append(compile_one(*given)) or compiled[-1])
        step()  # what Numba loads before its first kernel, each child would load again
    shutil.rmtree(place)
    for _ in range(2):
        ready, gate = os.pipe()
        children = [fork(step_when_told, ready, gate, compiled[0] if turn else None) for turn in range(16)]
        os.close(gate)
        assert [ended(child) for child in children] == [0] * 16
        os.close(ready)
        (entry,) = place.iterdir()
        assert cache._read(entry, (entry / "kernel.py").read_text(encoding="utf-8")) is not None
        assert step() == (0, 1)
        (entry / "kernel.o").write_bytes(b"")  # the second round meets an entry that nobody can use


@pytest.mark.hostile("C1")
def test_whoever_is_second_by_a_moment_leaves_the_entry_of_the_first_and_says_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert step() == (1, 0)
    (entry,) = place.iterdir()
    entry.rename(tmp_path / "first")
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        if target == entry:
            shutil.copytree(tmp_path / "first", entry)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    assert step() == (1, 0)  # a warning would be an error
    assert list(place.iterdir()) == [entry]
    assert cache._read(entry, (entry / "kernel.py").read_text(encoding="utf-8")) is not None


# What another machine, or another version, has written ------------------------------------------------------


def a_host_with_other_features(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache.llvm, "get_host_cpu_features", type("Features", (), {"flatten": lambda self: "+none"}))


DECIDING: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "processor": lambda patch: patch.setattr(cache.llvm, "get_host_cpu_name", lambda: "another"),
    "its features": a_host_with_other_features,
    "numba": lambda patch: patch.setattr(cache.numba, "__version__", "0.0"),
    "llvmlite": lambda patch: patch.setattr(cache.llvmlite, "__version__", "0.0"),
    "python": lambda patch: patch.setattr(cache.sys, "version", "3.99"),
    "a variable": lambda patch: patch.setenv("NUMBA_OPT", "0"),
    "a file": lambda patch: Path(".numba_config.yaml").write_text('opt: "0"\n'),
    "a name set at run time": lambda patch: patch.setattr(numba.config, "CPU_NAME", "generic"),
    "features set at run time": lambda patch: patch.setattr(numba.config, "CPU_FEATURES", ""),
    "AVX": lambda patch: patch.setattr(numba.config, "ENABLE_AVX", False),
    "optimisation": lambda patch: patch.setattr(numba.config, "OPT", 1),
    "vectorisation": lambda patch: patch.setattr(numba.config, "LOOP_VECTORIZE", 0),
    "bounds": lambda patch: patch.setattr(numba.config, "BOUNDSCHECK", 1),
    "debugging": lambda patch: patch.setattr(numba.config, "DEBUGINFO_DEFAULT", 1),
    "a library of Intel's": lambda patch: patch.setattr(numba.config, "USING_SVML", "another"),
    "what the generator was made from": lambda patch: patch.setattr(compiler, "_made_from", [("generic", "", "3")]),
}
IDLE: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "threads": lambda patch: patch.setattr(numba.config, "NUMBA_NUM_THREADS", 1),
    "a layer of threads": lambda patch: patch.setenv("NUMBA_THREADING_LAYER", "workqueue"),
    "colours": lambda patch: patch.setattr(numba.config, "COLOR_SCHEME", "dark_bg"),
    "a cache": lambda patch: patch.setenv("NUMBA_CACHE_DIR", "elsewhere"),
}


@pytest.fixture
def configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[None]:
    """Let a test change what Numba is told, here and from files; what it has read is forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        monkeypatch.setattr(compiler, "_made_from", list(compiler._made_from))
        yield
        monkeypatch.undo()
    numba.config.reload_config()


@pytest.mark.hostile("C2")
@pytest.mark.parametrize("what", DECIDING)
@pytest.mark.usefixtures("configuration")
def test_an_entry_of_another_machine_version_or_configuration_is_left_alone(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in effect counts, wherever it was set: by a variable, a file, or a program."""
    name = cache.digest("kernel")
    DECIDING[what](monkeypatch)
    assert cache.digest("kernel") != name


@pytest.mark.parametrize("what", IDLE)
@pytest.mark.usefixtures("configuration")
def test_what_decides_no_machine_code_shares_entries(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = cache.digest("kernel")
    IDLE[what](monkeypatch)
    assert cache.digest("kernel") == name


def compile_for_generic() -> None:
    """Make Numba's generator for a plain processor, then forget that it was asked to."""
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = "generic", ""
    first = cache.digest("kernel")
    numba.njit(lambda: 1)()
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = None, None
    print(json.dumps([first, cache.digest("kernel")]))


@pytest.mark.hostile("C2")
@pytest.mark.slow
def test_kernels_are_named_after_the_processor_that_the_generator_was_made_for() -> None:
    """Numba makes its generator once: what is set later changes neither it nor what it makes."""
    with interpreter("import test_hostile_processes as tests; tests.compile_for_generic()") as process:
        first, second = json.loads(said(process))
    assert len({first, second, cache.digest("kernel")}) == 3


# A cache that cannot be written -----------------------------------------------------------------------------


@pytest.mark.hostile("C3")
@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES], ids=errno.errorcode.get
)
def test_on_a_disk_that_takes_nothing_kernels_stay_in_memory(
    code: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.warns(UserWarning, match=f"cannot be written \\({os.strerror(code)}\\)"):
        assert step() == (1, 0)
    assert step() == (1, 0)
    assert list(place.iterdir()) == []


# Killed while compiling ------------------------------------------------------------------------------------


def die_at(moment: str) -> None:
    """Step, and be killed when the entry is being built."""
    method = {"before the source": "write_text", "before the code": "write_bytes", "before the end": "rename"}
    setattr(Path, method[moment], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    step()


@pytest.mark.hostile("C4")
@pytest.mark.parametrize("moment", ["before the source", "before the code", "before the end"])
def test_a_process_killed_while_it_writes_leaves_nothing_that_is_used(moment: str, place: Path) -> None:
    place.mkdir(parents=True, mode=0o700)
    assert ended(fork(die_at, moment)) == -signal.SIGKILL
    (left,) = place.iterdir()
    assert left.name.startswith(".build-")
    assert step() == (1, 0)
    assert step() == (0, 1)
    assert left.exists()  # it may be somebody's who is still at work
    os.utime(left, (0, 0))
    entry = next(path for path in place.iterdir() if path != left)
    (entry / "kernel.o").unlink()
    assert step() == (1, 0)
    assert list(place.iterdir()) == [entry]


@pytest.mark.slow
@pytest.mark.hostile("C4")
def test_processes_killed_at_any_moment_of_compiling_lock_and_poison_nothing(place: Path) -> None:
    for wait in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        child = fork(step)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        assert ended(child) in {-signal.SIGKILL, 0}
    assert step() in {(1, 0), (0, 1)}
    assert step() == (0, 1)


# Forks -----------------------------------------------------------------------------------------------------


class Stepping(torch.utils.data.Dataset[float]):
    """Items that are made by stepping an optimiser, in whatever process makes them."""

    def __init__(self) -> None:
        self.parameter = torch.nn.Parameter(torch.zeros(300_001))
        self.optimizer = sr.Optimizer([self.parameter], board.adam, clip=1.0)

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> float:
        self.parameter.grad = torch.ones_like(self.parameter)
        self.optimizer.step()
        return float(self.parameter.detach()[index])


@pytest.mark.hostile("C5")
def test_a_loader_with_forked_workers_feeds_a_training_that_goes_on() -> None:
    """The parent's pool has run before the fork; workers step copies of the optimiser, the parent its own."""
    torch.set_num_threads(2)
    data = Stepping()
    data[0]
    before = data.parameter.detach().clone()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process.*fork", DeprecationWarning)
        warnings.filterwarnings("ignore", "This DataLoader will create 4 worker processes", UserWarning)
        loader = torch.utils.data.DataLoader(data, num_workers=4, multiprocessing_context="fork", timeout=PATIENCE)
        seen = []
        for epoch in range(2):
            for item in loader:
                seen.append(float(item))
                data.parameter.grad = torch.ones_like(data.parameter)
                data.optimizer.step()
            assert float(data.optimizer.state[data.parameter]["m"][0]) > 0, epoch
    assert len(seen) == 32
    assert all(value < 0 for value in seen)
    assert (data.parameter < before).all()


def step_in_a_new_process(pickled: bytes, answer: Any) -> None:
    parameter, optimizer = pickle.loads(pickled)  # noqa: S301
    parameter.grad = torch.full((5,), 0.5)
    optimizer.step()
    answer.put(parameter.detach().tolist())


@pytest.mark.slow
@pytest.mark.hostile("C5")
def test_an_optimiser_sent_to_a_spawned_process_steps_there_as_here() -> None:
    parameter = torch.nn.Parameter(torch.ones(5))
    optimizer = board.adam.optimizer([parameter])
    parameter.grad = torch.ones(5)
    optimizer.step()
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    # As bytes: sent as they are, both processes would share one memory.
    pickled = pickle.dumps((parameter, optimizer))
    process = context.Process(target=step_in_a_new_process, args=(pickled, answer))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    parameter.grad = torch.full((5,), 0.5)
    optimizer.step()
    assert answer.get() == parameter.tolist()


# An interpreter under every constraint ----------------------------------------------------------------------

CONSTRAINTS = {"NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue", "OMP_NUM_THREADS": "1"}
"""Fewer threads than torch will be told to use, and the layer of Numba's that cannot be used by two threads at once."""


def train(threads: list[int]) -> str:
    """Step tensors of many chunks, under a number of threads that changes; return a digest of what came of it."""
    digest = _train(threads)
    torch.set_num_threads(1)
    return digest


def _train(threads: list[int]) -> str:
    """Do so, and leave the last number of threads set."""
    generator = torch.Generator().manual_seed(5)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (300_001, 7, 131_072)]
    optimizer = sr.Optimizer(parameters, sr.chain(sr.clip_norm, board.adam), clip=0.5)
    for count in threads:
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        torch.set_num_threads(count)
        optimizer.step()
        assert torch.get_num_threads() == count
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()


def at_once(threads: int) -> set[str]:
    """Train in several Python threads at the same time.

    They all set the same number of compute threads: a Python thread that is new to torch takes over the one that
    any other has set last.
    """
    found: list[str] = []
    running = [threading.Thread(target=lambda: found.append(_train([2, 2, 2]))) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    torch.set_num_threads(1)
    return set(found)


def fork_after_torchs_threads() -> int:
    """Let torch start threads, and kernels theirs; fork; step in the child, without telling torch anything there."""
    parameter = torch.nn.Parameter(torch.zeros(300_001))
    parameter.grad = torch.ones_like(parameter)
    optimizer = board.adam.optimizer([parameter])
    torch.set_num_threads(2)
    optimizer.step()
    torch.zeros(3_000_000).exp_()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process.*fork", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            optimizer.step()
            code = 7 if parameter.detach()[-1].item() < 0 else 2  # one element: torch's own threads would not answer
        finally:
            os._exit(code)
    return ended(child)


def be_constrained() -> None:
    """Do everything at once that an interpreter can do to kernels, and end while they run."""
    found: dict[str, Any] = {"threads": train([1, 64, 2]), "at once": sorted(at_once(4))}
    found["forked"] = fork_after_torchs_threads()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found["one core"] = train([3, 1, 2])
    print(json.dumps(found), flush=True)
    parameter = torch.nn.Parameter(torch.zeros(1_000_000))
    parameter.grad = torch.ones_like(parameter)
    optimizer = sr.Optimizer([parameter], board.adam, clip=1.0)
    torch.set_num_threads(2)

    def for_ever() -> None:
        while True:
            optimizer.step()

    def a_few() -> None:
        for _ in range(5):
            optimizer.step()
        print("a thread that ends has stepped", flush=True)

    atexit.register(lambda: (optimizer.step(), print("a handler of the end has stepped", flush=True)))
    threading.Thread(target=for_ever, daemon=True).start()
    threading.Thread(target=a_few).start()


@pytest.mark.slow
@pytest.mark.hostile("C5", "C6", "C7", "C8")
def test_under_every_constraint_bits_forks_threads_and_the_end_are_as_without() -> None:
    """Against the same runs in this process, which has none of the constraints."""
    with interpreter("import test_hostile_processes as tests; tests.be_constrained()", **CONSTRAINTS) as process:
        found, *end = said(process).splitlines()
    here = train([1, 1, 1])
    assert here == train([4, 2, 64])
    assert json.loads(found) == {"threads": here, "one core": here, "at once": [here], "forked": 7}
    assert end == ["a thread that ends has stepped", "a handler of the end has stepped"]


@pytest.mark.hostile("C6")
def test_threads_that_step_their_own_optimisers_at_once_do_not_disturb_each_other() -> None:
    assert at_once(8) == {train([2, 2, 2])}


# Without --------------------------------------------------------------------------------------------------


@pytest.mark.null
@pytest.mark.hostile("C8")
def test_what_cannot_be_run_here_is_named_with_what_can() -> None:
    """No GPU compiler is needed or asked for; a backend that is not there is refused by name."""
    with pytest.raises(sr.errors.BackendError, match="there is no backend 'triton'") as caught:
        board.sgd.optimizer([torch.nn.Parameter(torch.zeros(1))], backend="triton")
    assert "eager" in caught.value.fix
