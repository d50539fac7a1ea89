"""The command report: the page and the tables again, from the record alone."""

from __future__ import annotations

import re
from pathlib import Path

import click

import steprule as sr
from steprule.console.files import prepare
from steprule.console.kept import keep, tell
from steprule.console.options import FOLDER
from steprule.console.screen import Screen, say
from steprule.lab.report import terminal
from steprule.lab.report.reading import read
from steprule.lab.report.writing import differing, texts, write
from steprule.lab.results import as_text


@click.command()
@click.argument("source", type=click.Path(path_type=Path), default="results", metavar="[FOLDER|results.json]")
@click.option("--out", type=FOLDER, help="Folder of the files; that of the record without it.")
@click.option("--json", "as_json", is_flag=True, help="Print the record instead of the table.")
def report(source: Path, out: Path | None, *, as_json: bool) -> None:
    """Make report.html, runs.csv and curves.csv from a results.json, and print its table. Train nothing."""
    document = read(source)
    number = re.fullmatch(r"results\.(\d+)\.json", source.name)  # of a comparison that a later one has set aside
    folder = out or (source if source.is_dir() else source.parent)
    try:
        prepare(folder)
        made = texts(document, folder, number[1] if out is None and number else "")
        tell(keep(folder, differing(made)))
        write(made)
    except OSError as error:
        raise sr.errors.StateError(
            f"the report cannot be written: {error.strerror or error}",
            where=str(folder),
            fix="give a folder that can be written to with --out",
        ) from error
    if as_json:
        say(as_text(document))
    else:
        terminal.show(Screen(), document)
    say(f"Written: {', '.join(map(str, made))}", err=as_json)
