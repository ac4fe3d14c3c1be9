"""Tables of the documentation site that are generated from the package: an extension of Python-Markdown.

A line `<!-- options: COMMAND -->` of a page becomes the tables of that command's arguments and options, a line
`<!-- record: MODULE.CLASS -->` the table of a record's fields (see `qa_fast.options`), and a line `<!-- models -->` the
table of checkpoints. mkdocs.yml names this module, so that `python -m zensical build` finds it
when it is run in the root of the repository.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import typer
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

from qa_fast.cli.app import app
from qa_fast.cli.records import sections_of
from qa_fast.model.catalogue import CHECKPOINTS
from qa_fast.options import option_of

MARKER = re.compile(r"<!-- (?:options: (?P<command>[a-z]+)|record: (?P<record>[\w.]+)|(?P<models>models)) -->")


def commands() -> dict[str, Any]:
    """The sub-commands of `qa-fast` by name, as click has them."""
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def option_tables(name: str) -> list[str]:
    """The arguments and options of a command as Markdown, one table for each heading of its `--help`."""
    command = commands()[name]
    context = typer.Context(command, info_name=name)
    sections = {}
    for heading, parameters in sections_of(command, context).items():
        sections[heading] = [_row(parameter, context) for parameter in parameters if parameter.name != "help"]
    lines = []
    for heading, rows in sections.items():
        if rows:
            lines += ["", f"**{heading}**", "", "| | default | meaning |", "|---|---|---|", *rows, ""]
    return lines


def _row(parameter: Any, context: typer.Context) -> str:
    """An argument or option as a row: its spelling and variable, its default, its meaning."""
    argument = parameter.param_type_name == "argument"
    spelling = _argument(parameter, context) if argument else _option(parameter, context)
    names = [spelling, *(parameter.envvar or ())]
    cells = (" <br> ".join(f"`{name}`" for name in names), _default(parameter), parameter.help or "")
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _argument(parameter: Any, context: typer.Context) -> str:
    """Return an argument as it is written, such as `SOURCE`."""
    return re.sub(r"[{}\[\]]", "", parameter.make_metavar(context)).upper()


def _option(parameter: Any, context: typer.Context) -> str:
    """The names of an option and what it takes, such as `-q, --question <str>`."""
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {parameter.make_metavar(context)}"


def _default(parameter: Any) -> str:
    """The default value as the command line would take it; "" for a flag, "required" where there must be one."""
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or callable(value) or value == ():
        return ""
    return f"`{value}`" if value != "" else "empty"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def record_table(name: str) -> list[str]:
    """The fields of a record as Markdown, such as those of `qa_fast.schema.FeatureConfig`."""
    module, _, record = name.rpartition(".")
    lines = ["", "| field | type | default | meaning | allowed |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(getattr(importlib.import_module(module), record)):
        declared = option_of(field)
        if declared is not None:
            allowed = ", ".join(declared.choices) or declared.bounds
            cells = (f"`{field.name}`", f"`{field.type}`", f"`{field.default!r}`", declared.help, allowed)
            lines.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |")
    return [*lines, ""]


def checkpoint_table() -> list[str]:
    """The catalogue of checkpoints as Markdown."""
    lines = [
        "",
        "| checkpoint | family | size | SQuAD v1.1 | SQuAD v2 | when to pick it |",
        "|---|---|---|---|---|---|",
    ]
    for each in CHECKPOINTS:
        when = each.when if each.longest == 512 else f"{each.when} (longest input {each.longest:,})"
        when += f". Scores: {each.source}" if each.source else ""
        cells = (each.name, each.family, f"{each.parameters:g} M", each.squad_1, each.squad_2, when)
        lines.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |")
    return [*lines, ""]


class SiteTables(Preprocessor):
    """Replaces the markers of a page."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines of the page with each marker replaced by its table."""
        return [new for line in lines for new in self._replaced(line)]

    def _replaced(self, line: str) -> Iterator[str]:
        marker = MARKER.fullmatch(line.strip())
        if marker is None:
            yield line
        elif marker["record"]:
            yield from record_table(marker["record"])
        elif marker["models"]:
            yield from checkpoint_table()
        else:
            yield from option_tables(marker["command"])


class SiteTablesExtension(Extension):
    """Registers `SiteTables`, before HTML comments are taken out of the page."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Add the preprocessor."""
        md.preprocessors.register(SiteTables(md), "site_tables", 40)


def makeExtension(**settings: Any) -> SiteTablesExtension:
    """Load the extension; Python-Markdown calls this."""
    return SiteTablesExtension(**settings)
