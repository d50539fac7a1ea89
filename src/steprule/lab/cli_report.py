"""The command report: the page and the tables again, from the record alone."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

import steprule as sr
from steprule.lab.files import prepare
from steprule.lab.options import FOLDER
from steprule.lab.report import terminal
from steprule.lab.report.reading import read
from steprule.lab.report.writing import FILES, write
from steprule.lab.results import as_text


@click.command()
@click.argument("source", type=click.Path(path_type=Path), default="results", metavar="[FOLDER|results.json]")
@click.option("--out", type=FOLDER, help="Folder of the files; that of the record without it.")
@click.option("--json", "as_json", is_flag=True, help="Print the record instead of the table.")
def report(source: Path, out: Path | None, *, as_json: bool) -> None:
    """Make report.html, runs.csv and curves.csv from a results.json, and print its table. Nothing is trained."""
    document = read(source)
    folder = out or (source if source.is_dir() else source.parent)
    try:
        prepare(folder)
        write(document, folder)
    except OSError as error:
        raise sr.errors.StateError(
            f"the report cannot be written: {error.strerror or error}",
            where=str(folder),
            fix="give a folder that can be written to with --out",
        ) from error
    if as_json:
        click.echo(as_text(document))
    else:
        terminal.show(Console(), document)
    click.echo(f"Written: {', '.join(str(folder / name) for name in FILES)}", err=as_json)
