"""Commands whose options are declared by records: the fields of a dataclass become options of the command line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from qa_fast.options import flag_of, option_of


def with_records(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that its records declare.

    Each parameter whose type is a dataclass is replaced by one option for every field that `options.option` made; the
    record is built from their values when the command runs.

    Args:
        function: The command. The types of its parameters must be imported at the top of its module.

    Example:
        >>> @with_records
        ... def train(shards: list[str], config: TrainConfig, quiet: bool = False) -> None: ...
    """
    records: dict[str, tuple[type, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        record = parameter.annotation
        if isinstance(record, type) and dataclasses.is_dataclass(record):
            made = _parameters_of(record)
            records[parameter.name] = record, [option.name for option in made]
            parameters.extend(made)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def command(**given: Any) -> None:
        for name, (record, fields) in records.items():
            given[name] = record(**{field: given.pop(field) for field in fields})
        function(**given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameters_of(record: type) -> list[inspect.Parameter]:
    """One keyword parameter for each field of a record that the command line has."""
    types = get_type_hints(record)
    parameters = []
    for field in dataclasses.fields(record):
        declared = option_of(field)
        if declared is None or not declared.command:
            continue
        metavar = f"[{'|'.join(declared.choices)}]" if declared.choices else None
        flag = declared.flag or flag_of(field.name)
        option = typer.Option(flag, help=declared.help, metavar=metavar, rich_help_panel=declared.group or None)
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[types[field.name], option],
            )
        )
    return parameters


class GroupedCommand(TyperCommand):
    """A command whose `--help` lists options under the headings that they declare, those without one first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections "Arguments", "Options" and one for each group."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            heading = getattr(parameter, "rich_help_panel", None) or kind
            sections.setdefault(heading, []).append(record)
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
