"""The command `steprule bench`, which is also `python -m steprule.bench`: time a step beside torch and others."""

from __future__ import annotations

import gc
import shlex
import time
from pathlib import Path
from typing import Any

import click

from steprule.bench import cases, gpu, machine
from steprule.bench.conduct import BenchOptions
from steprule.bench.load import warning
from steprule.bench.record import Record, wrong
from steprule.bench.run import estimate, works
from steprule.bench.terminal import show
from steprule.console.ending import INTERRUPTED
from steprule.console.files import prepare, write_atomically
from steprule.console.kept import keep, tell
from steprule.console.options import FOLDER, OUTPUT
from steprule.console.progress import about, meter
from steprule.console.screen import Screen, say
from steprule.console.text import near

ALONE = "python -m steprule.bench"
SAVE_EVERY = 10.0
"""Seconds between two writings of the record while cases come in."""


class Suites(click.ParamType):
    """Suites by name, separated by commas."""

    name = "suites"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names once each, or say which are allowed."""
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in cases.NAMES:
                self.fail(f"{name!r} is none of {', '.join(cases.NAMES)}. {near(name, cases.NAMES)}", param, ctx)
        return names


@click.command()
@click.option("--suite", type=Suites(), show_default=",".join(cases.NAMES), help="Suites, by name.")
@click.option(
    "--device",
    type=click.Choice(["cpu", gpu.DEVICE]),
    default="cpu",
    show_default=True,
    help=f"The suites to time; on a GPU {', '.join(cases.GPU_NAMES)}.",
)
@click.option("--quick", is_flag=True, help="A first look: smaller models, fewer rounds, no torch.compile.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=machine.cores,
    show_default="one a core",
    help="How many threads 'all threads' are.",
)
@click.option("--rounds", type=click.IntRange(1, 10_000), help="Rounds a case, instead of a few seconds of them.")
@click.option("--out", type=FOLDER, default="results", show_default=True, help="Folder of bench.json and bench.svg.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the record to this file too, and the picture beside it.",
)
@OUTPUT
@click.pass_context
def bench(ctx: click.Context, **values: Any) -> int:
    """Time a step beside torch's, optax's and the roofline, on this machine.

    With --device cuda, beside torch's foreach, fused and compiled steps and a copy of the same bytes, on its GPU.

    All arms compute the same update, which is checked first, and take turns in one process. A ratio that the spread of
    its times, or other programs at work, leave open is printed as a question mark. Leaves bench.json, the record with
    machine and versions, and bench.svg in the folder given by --out.
    """
    options = BenchOptions(values["threads"], values["rounds"], values["quick"], values["device"])
    suites = _suites(values["suite"], options.device)
    targets = _targets(values["out"], values["record"])
    root = ctx.find_root()
    called = ["steprule"] if root is not ctx else ALONE.split()
    command = shlex.join([*called, *root.obj])
    record = Record(command, machine.machine(options.threads, options.device))
    talk, loud = Screen(stderr=True), not values["no_progress"]
    if told := warning():
        talk.print(told)
    if loud:
        talk.print(f"{', '.join(suites)}: {about(estimate(suites, options))}")
    gauge = meter("pieces", wanted=loud)
    interrupted = _conduct(record, suites, options, targets, gauge)
    return _finish(record, targets, as_json=values["as_json"], interrupted=interrupted)


def _suites(asked: tuple[str, ...] | None, device: str) -> tuple[str, ...]:
    """Return the suites to run, having proved that the device is there and that they can be run on it."""
    if device != gpu.DEVICE:
        return asked or cases.NAMES
    other = [name for name in asked or () if name not in cases.GPU_NAMES]
    if other:
        raise click.UsageError(f"--device cuda has no suite {', '.join(other)}: take {', '.join(cases.GPU_NAMES)}.")
    gpu.require()
    return asked or cases.GPU_NAMES


def _targets(out: Path, record: Path | None) -> list[Path]:
    """Return where the record goes, having proved that it can be written there."""
    targets = [out / "bench.json", *([record] if record is not None else [])]
    for target in targets:
        try:
            prepare(target.parent)
        except OSError as error:
            option = "--out" if target is targets[0] else "--record"
            raise click.UsageError(f"{option}: cannot write to {target.parent}: {error.strerror or error}.") from error
    return targets


def _conduct(record: Record, suites: tuple[str, ...], options: BenchOptions, targets: list[Path], gauge: Any) -> bool:
    """Do all the work; return whether ctrl-C ended it early."""
    began = saved = time.monotonic()
    todo = list(works(record, suites, options))
    gc.freeze()  # garbage is collected after each case; older objects need not be searched each time
    try:
        with gauge:
            for work in todo:
                gauge.phase(work.name, len(todo))
                work.do()
                gauge.advance()
                record.seconds = time.monotonic() - began
                if time.monotonic() - saved > SAVE_EVERY:
                    saved = time.monotonic()
                    _save(record, targets)
        record.complete = True
    except KeyboardInterrupt:
        return True
    finally:
        gc.unfreeze()
    return False


def _save(record: Record, targets: list[Path]) -> None:
    """Write the record. Keep an earlier one with its picture, and say so."""
    for target in targets:
        pair = (target.name, target.with_suffix(".svg").name)
        anew = None if target in record.written else lambda place=target.parent, pair=pair: tell(keep(place, pair))
        write_atomically(target, record.text(), first=anew)
        record.written.add(target)


def _finish(record: Record, targets: list[Path], *, as_json: bool, interrupted: bool) -> int:
    """Write the record and the picture, print the table, and say where the files are."""
    if not record.results and record.start is None:
        say("Interrupted before the first case was done: no file was written.", err=True)
        return INTERRUPTED
    document = record.document()
    _save(record, targets)
    drawn = _picture(document)
    for target in targets if drawn else ():
        write_atomically(target.with_suffix(".svg"), drawn or "")
    if as_json:
        say(record.text().removesuffix("\n"))
    else:
        show(Screen(), document)
    written = [str(path) for target in targets for path in (target, target.with_suffix(".svg"))[: 2 if drawn else 1]]
    say(f"Written: {', '.join(written)}", err=as_json)
    for told in wrong(record.results):
        say(f"Wrong: {told}", err=True)
    return INTERRUPTED if interrupted else int(bool(wrong(record.results)))


def _picture(document: dict[str, Any]) -> str | None:
    """Return the picture, or say why there is none."""
    try:
        # Imported here: matplotlib is slow to load, and would sit in memory while things are timed.
        from steprule.bench.picture import picture
    except ModuleNotFoundError as error:
        say(f"No picture: {error.name} is not installed.", err=True)
        return None
    return picture(document)
