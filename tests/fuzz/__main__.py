"""`make fuzz`: random lives of optimisers, each held against an oracle at every step, for as long as asked.

Every worker process runs one scenario after another and says which; when one dies, its scenario is reported and
another goes on. A finding is repeated by `python tests/fuzz --seed N`.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
from scenario import live

from steprule.backends.cache import VARIABLE

HERE = Path(__file__).parent


@dataclass
class Tally:
    """What all workers have done so far."""

    scenarios: int = 0
    steps: int = 0
    found: dict[int, str] = field(default_factory=dict[int, str])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def told(self) -> str:
        return f"{self.scenarios} scenarios, {self.steps} steps, {len(self.found)} findings"


def work(first: int, stride: int, until: float) -> None:
    """Run scenarios in this process and write a line about each."""
    faulthandler.enable()
    seed = first
    while time.time() < until:
        print("begin", seed, flush=True)
        try:
            log = live(seed)
        except Exception as error:  # noqa: BLE001
            note = " | ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
            print("found", seed, note.replace("\n", " "), flush=True)
        else:
            print("fine", seed, sum(entry.startswith("step ") for entry in log), flush=True)
        seed += stride


def watch(tally: Tally, first: int, stride: int, until: float) -> None:
    """Keep one worker going; what kills it is a finding too."""
    seed = first
    while time.time() < until:
        command = [sys.executable, str(HERE), "--work", str(stride), "--seed", str(seed), "--until", str(until)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                word, number, *rest = line.rstrip("\n").split(" ", 2)
                with tally.lock:
                    seed = int(number) if word in {"begin", "found", "fine"} else seed
                    tally.scenarios += word in {"found", "fine"}
                    if word == "fine":
                        tally.steps += int(rest[0])
                    if word == "found":
                        tally.found[seed] = rest[0]
            trouble = process.stderr.read().strip()
        if process.returncode:
            with tally.lock:
                tally.found[seed] = f"the process died with {process.returncode}: {trouble[-2000:]}"
            seed += stride


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(min=0), default=5.0, show_default=True, help="How long.")
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True, help="Processes.")
@click.option("--first", type=int, default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Run this one scenario only.")
@click.option("--work", "stride", type=int, hidden=True)
@click.option("--until", type=float, hidden=True)
def main(minutes: float, jobs: int, first: int, seed: int | None, stride: int | None, until: float | None) -> None:
    """Run random scenarios; the exit code is 1 when one of them found something."""
    if stride is not None and seed is not None and until is not None:
        return work(seed, stride, until)
    if seed is not None:
        return click.echo("; ".join(live(seed)))
    os.environ.setdefault(VARIABLE, str(Path("build/fuzz-kernels").resolve()))
    tally, start = Tally(), time.time()
    until = start + 60 * minutes
    watchers = [threading.Thread(target=watch, args=(tally, first + job, jobs, until)) for job in range(jobs)]
    for watcher in watchers:
        watcher.start()
    told = 0
    while any(watcher.is_alive() for watcher in watchers):
        for watcher in watchers:
            watcher.join(5 / len(watchers))
        for number, what in list(tally.found.items())[told:]:
            click.echo(f"seed {number}: {what}")
            told += 1
        click.echo(f"{(time.time() - start) / 60:5.1f} of {minutes:g} minutes: {tally.told()}", err=True)
    click.echo(f"fuzz: {tally.told()} in {(time.time() - start) / 60:.1f} minutes")
    sys.exit(bool(tally.found))


if __name__ == "__main__":
    main()
