"""Run things in processes of their own, where a fault, a hang or an exit is only a failed test."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

HERE = Path(__file__).parent
PATIENCE = 600.0
"""Seconds after which a process hangs, on however busy a machine."""


def fork(function: Callable[..., Any], *arguments: Any, noise: IO[str] | None = None) -> int:
    """Run `function(*arguments)` in a forked child, which has loaded and compiled all that we have; return its id."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process.*fork", DeprecationWarning)
        warnings.filterwarnings(
            "ignore", r"os\.fork\(\) was called", RuntimeWarning
        )  # JAX's, where a test has loaded it
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        gc.freeze()  # garbage of ours, a process group's for instance, would wait for threads that stayed behind
        faulthandler.disable()
        if noise is not None:
            faulthandler.enable(noise)
        torch.set_num_threads(1)  # as every forked child has to: the threads of OpenMP stay behind
        function(*arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the parent is told, and the child ends here
        if noise is not None:
            noise.write(traceback.format_exc())
            noise.flush()
    finally:
        os._exit(code)


def ended(child: int, patience: float = PATIENCE) -> int:
    """Return the exit code of a forked child, negative for a signal; one that hangs is aborted: noise says where."""
    for seconds, signal_ in ((patience, signal.SIGABRT), (5.0, signal.SIGKILL)):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(child, signal_)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_line(number: int, where: str, act: Callable[[], object]) -> None:
    """Do something before so many lines have run in files with `where` in their path: at any moment, at any speed."""
    left = iter(range(number))

    def watch(frame: Any, _event: str, _argument: object) -> Any:
        if where not in frame.f_code.co_filename:
            return None
        if next(left, None) is None:
            act()
        return watch

    sys.settrace(watch)


def die() -> None:
    """End this process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


def survives(function: Callable[..., Any], *arguments: Any) -> None:
    """Run `function(*arguments)` in a forked child, which must end well."""
    with tempfile.TemporaryFile("w+") as noise:
        code = ended(fork(function, *arguments, noise=noise))
        noise.seek(0)
        assert code == 0, f"ended with {code}:\n{noise.read()[:6000]}"


def interpreter(text: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a new interpreter on a text that can import what the tests import; warnings are errors in it too."""
    paths = [path for path in sys.path if path]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str], patience: float = PATIENCE) -> str:
    """Return what an interpreter printed; it must end well, and in time."""
    try:
        out, noise = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        out, noise = process.communicate()
        noise += f"\nit hung for {patience} s"
    assert process.returncode == 0, f"ended with {process.returncode}:\n{noise[-3000:]}"
    return out
