"""A command's options from a TOML file: every key is a flag, and the command line has the last word."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from steprule.console.text import near
from steprule.lab.options import Bounds, OptimizerNames, Schedules, Sizes, TaskNames

LARGEST = 1 << 20
"""Bytes of a file that are read at most: no settings are that long, and a device never ends."""

EXPANDED = "steprule.expanded"
"""Where a context keeps the arguments with the file's among them."""

TABLES = ("compare", "train", "tune")
"""The commands that a file may have a table for."""

BUDGETS = {"epochs", "iterations"}
"""These exclude each other, so either one on the command line puts both of the file's aside."""


class Configured(click.Command):
    """A command that takes `--config FILE.toml`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        told = "Options from a TOML file, keys as the flags; tables such as [compare] or [tune] are for one command."
        self.params.append(click.Option(["--config"], metavar="FILE.toml", expose_value=False, help=told))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the file's options before those of the command line: the last one of an option counts."""
        if not ctx.resilient_parsing:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            asked = self.get_help_option(ctx)  # --help works with any file
            if isinstance(path := given.get("config"), str) and not (asked and asked.name in given):
                aside = BUDGETS if BUDGETS & given.keys() else set[str]()
                args = [*_arguments(ctx, path, aside), *args]
                ctx.meta[EXPANDED] = [str(ctx.info_name), *_without_config(args)]
        return super().parse_args(ctx, args)


def arguments(ctx: click.Context) -> list[str]:
    """Return the whole command line, with the file's options written out."""
    return ctx.meta.get(EXPANDED) or ctx.find_root().obj


def _without_config(args: list[str]) -> list[str]:
    """Return the arguments less the file's name."""
    pairs = zip(args, ["", *args[:-1]], strict=True)
    return [word for word, before in pairs if not word.startswith("--config") and before != "--config"]


def _arguments(ctx: click.Context, path: str, aside: set[str]) -> list[str]:
    """Return the file's options for this command as arguments, in the file's order."""
    document = _read(path)
    group = ctx.parent.command if ctx.parent is not None else None
    named = [name for name in document if isinstance(document[name], dict)]
    tables: dict[str, dict[str, Any]] = {}
    for name in named:
        command = group.get_command(ctx, name) if isinstance(group, click.Group) else None
        if isinstance(command, Configured):
            tables[name] = document.pop(name)
            _known(path, command, tables[name], f"[{name}]: ")
    _known(path, ctx.command, document)
    flags = _flags(ctx.command)
    items = [*document.items(), *tables.get(ctx.info_name or "", {}).items()]
    found: list[str] = []
    for key, value in items:
        flag = key.replace("_", "-")
        try:
            words = _argument(ctx, f"--{flag}", flags[flag], value)
        except ValueError as error:  # a number of more digits than Python writes out
            raise click.UsageError(f"--config: {path}: {key}: {error}.") from error
        found += [] if flag in aside else words
    return found


def _read(path: str) -> dict[str, Any]:
    """Return the file's content."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise click.UsageError(f"--config: {path} is longer than {LARGEST} bytes.")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise click.UsageError(f"--config: cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--config: {path} is not TOML: {error}.") from error


def _flags(command: click.Command) -> dict[str, click.Option]:
    """Return the options that a file may hold, by flag without its dashes."""
    options = [param for param in command.params if isinstance(param, click.Option) and param.name != "config"]
    return {flag[2:]: option for option in options for flag in (*option.opts, *option.secondary_opts)}


def _known(path: str, command: click.Command, table: dict[str, Any], where: str = "") -> None:
    """Refuse a key that is not a flag of the command, and list the flags."""
    flags = _flags(command)
    for key in table:
        if key.replace("_", "-") not in flags:
            allowed = ", ".join(flags)
            told = f"{where}no option {key!r} in {command.name}; allowed: {allowed}. {near(key, [*flags, *TABLES])}"
            raise click.UsageError(f"--config: {path}: {told}")


LISTS = (OptimizerNames, TaskNames, Schedules, Bounds, Sizes)
"""The types that the command line writes with commas, and a file may write as a list."""


def _argument(ctx: click.Context, flag: str, option: click.Option, value: Any) -> list[str]:
    """Return one setting as the command line would spell it, or refuse one that it cannot spell."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise click.BadParameter(f"{value!r} is neither true nor false.", ctx, option)
        negative = option.secondary_opts if flag in option.opts else option.opts
        return [flag] if value else negative[:1]
    if value is True and isinstance(option.flag_value, str):
        return [f"{flag}={option.flag_value}"]
    if option.nargs > 1:
        # Checked before click sees it: a value too few would take the next argument in its place.
        if not isinstance(value, list) or len(value) != option.nargs:
            raise click.BadOptionUsage(flag, f"Option '{flag}' requires {option.nargs} arguments.", ctx)
        first, *others = [_accepted(ctx, option, item) for item in value]
        return [f"{flag}={first}", *others]
    if option.multiple and isinstance(value, list):
        return [f"{flag}={_accepted(ctx, option, item)}" for item in value]
    if isinstance(value, list) and isinstance(option.type, LISTS):
        value = ",".join(map(str, value))
    if isinstance(option.type, click.Path) and (not isinstance(value, str) or not value or "\0" in value):
        raise click.BadParameter(f"{value!r} is not a path.", ctx, option)
    return [f"{flag}={_accepted(ctx, option, value)}"]


def _accepted(ctx: click.Context, option: click.Option, value: Any) -> str:
    """Return a value as it is typed, once its option takes it: also where a flag of the command line overrides it."""
    option.type.convert(str(value), option, ctx)
    return str(value)
