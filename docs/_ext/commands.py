"""Every command with its options, as click knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
from docutils import nodes
from made import code, folded, paragraph, table
from sphinx.util.docutils import SphinxDirective

from steprule.lab.cli import COMMANDS, cli


class Commands(SphinxDirective):
    """A section a command."""

    def run(self) -> list[nodes.Node]:
        """Return them."""
        return list(self._sections())

    def _sections(self) -> Iterator[nodes.Node]:
        context = click.Context(cli, info_name="steprule")
        for name, (_, purpose) in COMMANDS.items():
            command = cli.get_command(context, name)
            assert command is not None
            section = nodes.section("", nodes.title("", f"steprule {name}"), ids=[f"steprule-{name}"])
            section["names"] = [f"steprule {name}"]
            self.state.document.note_explicit_target(section)
            own = click.Context(command, info_name=name, parent=context, terminal_width=100, max_content_width=100)
            section += paragraph(purpose)
            section += code(" ".join(["$ steprule", name, *command.collect_usage_pieces(own)]), "console")
            if rows := list(_rows(command, own)):
                section += table(("option", "what it does"), rows, "options")
            section += folded(f"<code>steprule {name} --help</code>", code(command.get_help(own), "text"))
            yield section


def _rows(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Return each option as click's own help words it."""
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record is not None:
            yield f"`{record[0]}`", re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", r"`\1`", record[1])
