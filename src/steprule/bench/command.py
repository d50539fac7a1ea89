"""The command `steprule bench`, which is also `python -m steprule.bench`: time a step beside torch and others."""

from __future__ import annotations

import gc
import shlex
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from steprule.bench import cases, gpu, machine
from steprule.bench.conduct import BenchOptions
from steprule.bench.gpu import Gpu
from steprule.bench.load import warning
from steprule.bench.record import Record, errors
from steprule.bench.rehearsal import MEANINGLESS, Rehearsal
from steprule.bench.resume import resume
from steprule.bench.run import SCALES, Allowance, Work, estimate, works
from steprule.bench.terminal import show
from steprule.console.ending import INTERRUPTED
from steprule.console.files import prepare, write_atomically
from steprule.console.kept import keep, tell
from steprule.console.options import FOLDER, OUTPUT, Number
from steprule.console.progress import about, meter
from steprule.console.screen import Screen, say
from steprule.console.text import near

ALONE = "python -m steprule.bench"
BUDGET = 300.0
"""Seconds of the scale `gpu`."""


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
@click.option(
    "--scale",
    type=click.Choice(SCALES),
    default="full",
    show_default=True,
    help="How large the cases are. gpu: one GPU for five minutes, the most important cases first.",
)
@click.option("--quick", is_flag=True, help="A first look: smaller models, fewer rounds, no torch.compile.")
@click.option(
    "--seconds",
    type=Number(),
    show_default=f"{BUDGET:.0f} with --scale gpu, else no end",
    help="End in this time; cases for which none is left are recorded as left out.",
)
@click.option("--resume", is_flag=True, help="Go on with the record in --out: what it has is not done again.")
@click.option("--rehearse", is_flag=True, help="Take the ways of --device cuda in main memory; times mean nothing.")
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

    With --device cuda, beside torch's foreach, fused, graphed and compiled steps and a copy of the same bytes, on its
    GPU; --scale gpu is that in five minutes. What fails is recorded, and ends nothing: the exit code is then 1.

    All arms compute the same update, which is checked first, and take turns in one process. A ratio that the spread of
    its times, or other programs at work, leave open is printed as a question mark. Leaves bench.json, the record with
    machine and versions, and bench.svg in the folder given by --out.
    """
    options, suites = _options(ctx, values)
    targets = _targets(values["out"], values["record"])
    root = ctx.find_root()
    called = ["steprule"] if root is not ctx else ALONE.split()
    facts = machine.machine(options.threads, options.gpu if options.device == gpu.DEVICE else None)
    record = Record(shlex.join([*called, *root.obj]), facts, asked=_asked(options))
    talk, loud = Screen(stderr=True), not values["no_progress"]
    if values["resume"]:
        _go_on(record, targets, talk)
    for told in (warning(), MEANINGLESS if values["rehearse"] else None):
        if told:
            talk.print(told)
    allowance = Allowance(values["seconds"], time.monotonic())
    if loud:
        guess = estimate(suites, options)
        talk.print(f"{', '.join(suites)}: {about(min(guess, allowance.seconds or guess))}")
    gauge = meter("pieces", wanted=loud)
    interrupted = _conduct(record, _todo(record, suites, options), allowance, targets, gauge)
    if options.device == gpu.DEVICE:
        facts["gpu"]["at_end"] = options.gpu.state()
    return _finish(record, targets, as_json=values["as_json"], interrupted=interrupted)


def _options(ctx: click.Context, values: dict[str, Any]) -> tuple[BenchOptions, tuple[str, ...]]:
    """Return the settings and the suites, having proved that the device is there and that they can be run on it."""
    given = {name for name in values if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    size = values["scale"]
    if values["quick"] and "scale" in given and size != "quick":
        raise click.UsageError(f"--quick is --scale quick: leave out either it or --scale {size}.")
    ranked = size == "gpu" and not values["quick"]
    if (ranked or values["rehearse"]) and "device" not in given:
        values["device"] = gpu.DEVICE
    if values["device"] != gpu.DEVICE and (ranked or values["rehearse"]):
        raise click.UsageError(f"{'--scale gpu' if ranked else '--rehearse'} is for --device cuda, not cpu.")
    if ranked and values["seconds"] is None:
        values["seconds"] = BUDGET
    quick = values["quick"] or size == "quick"
    where = Rehearsal() if values["rehearse"] else Gpu()
    options = BenchOptions(
        values["threads"], values["rounds"], quick, values["device"], "quick" if quick else size, where
    )
    return options, _suites(values["suite"], options)


def _suites(asked: tuple[str, ...] | None, options: BenchOptions) -> tuple[str, ...]:
    if options.device != gpu.DEVICE:
        return asked or cases.NAMES
    kind, names = ("--scale gpu", cases.RANKED_NAMES) if options.scale == "gpu" else ("--device cuda", cases.GPU_NAMES)
    other = [name for name in asked or () if name not in names]
    if other:
        raise click.UsageError(f"{kind} has no suite {', '.join(other)}: take {', '.join(names)}.")
    options.gpu.require(kind)
    return asked or names


def _asked(options: BenchOptions) -> dict[str, Any]:
    """Return what has to be asked for again by a run that goes on."""
    return {
        "scale": options.scale,
        "device": options.device,
        "threads": options.threads,
        "rounds": options.rounds,
        "rehearse": isinstance(options.gpu, Rehearsal),
    }


def _todo(record: Record, suites: tuple[str, ...], options: BenchOptions) -> list[Work]:
    """List the work, last what an earlier run was killed at: it may hang."""
    return sorted(works(record, suites, options), key=lambda work: work.name == record.cut)


def _go_on(record: Record, targets: list[Path], talk: Screen) -> None:
    """Take over an earlier record, or say why the run begins anew; either way it is on disk from now on."""
    path = targets[0]
    if reason := resume(record, path):
        talk.print(f"{path} cannot be gone on with: {reason}. This run begins anew.")
    elif record.before:
        talk.print(f"{path} has {len(record.before)} cases, which are not done again.")
    _save(record, targets)


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


def _conduct(record: Record, todo: list[Work], allowance: Allowance, targets: list[Path], gauge: Any) -> bool:
    """Do all the work, each piece of which is on disk when the next begins; return whether ctrl-C ended it early."""
    done = True
    gc.freeze()  # garbage is collected after each case; older objects need not be searched each time
    try:
        with gauge:
            for work in todo:
                gauge.phase(work.name, len(todo))
                record.begun = work.name
                if record.results or record.written:
                    _save(record, targets)
                done = allowance.take(work) and done
                gauge.advance()
                record.seconds = time.monotonic() - allowance.began
                record.stopped = next((result.lost for result in record.results if result.lost), None)
                if record.stopped:
                    break
        record.complete = done and record.stopped is None
    except KeyboardInterrupt:
        return True
    finally:
        record.begun = None
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
    if not record.results and not record.before and record.start is None:
        say("Interrupted before the first case was done.", err=True)
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
    found = errors(document)
    for told in (*found, *([f"Stopped: {record.stopped}"] if record.stopped else [])):
        say(told, err=True)
    return INTERRUPTED if interrupted else int(bool(found))


def _picture(document: dict[str, Any]) -> str | None:
    """Return the picture, or say why there is none."""
    try:
        # Imported here: matplotlib is slow to load, and would sit in memory while things are timed.
        from steprule.bench.picture import picture
    except ModuleNotFoundError as error:
        say(f"No picture: {error.name} is not installed.", err=True)
        return None
    return picture(document)
