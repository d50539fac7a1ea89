"""The command play: write the playground, and open it."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

import steprule as sr
from steprule.backends import cache
from steprule.console.files import prepare, write_atomically
from steprule.console.options import FOLDER
from steprule.console.screen import say
from steprule.play.page import page

NAME = "steprule-play.html"


@click.command()
@click.option("--out", type=FOLDER, help="Folder of the file; a private one beside the kernels without it.")
@click.option("--browser/--no-browser", default=True, help="Open it, or only write it.")
def play(out: Path | None, *, browser: bool) -> None:
    """Open the playground: a whiteboard on which rules are edited, and what they do. It needs no network."""
    folder = out or _private()
    path = (folder / NAME).resolve()
    try:
        prepare(folder)
        write_atomically(path, page())
    except OSError as error:
        raise sr.errors.StateError(
            f"the playground cannot be written: {error.strerror or error}",
            where=str(folder),
            fix="give a folder that can be written to with --out",
        ) from error
    say(str(path))
    if browser and not _opened(path):
        say("No browser could be started: open this file in one.", err=True)


def _private() -> Path:
    """Return the private place of files that are made anew whenever they are asked for."""
    kernels = cache.directory()
    if kernels is None:
        raise sr.errors.StateError(
            "there is no private place for the playground",
            where="the cache of kernels",
            fix=f"give a folder with --out, or set {cache.VARIABLE} to one that is yours alone",
        )
    return kernels.parent


def _opened(path: Path) -> bool:
    """Whether a browser took the file."""
    try:
        return webbrowser.open(path.as_uri())
    except (webbrowser.Error, OSError):
        return False
