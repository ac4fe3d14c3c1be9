"""Commands whose options are declared by records: the fields of a dataclass become options of the command line."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from qa_fast import signals
from qa_fast.cli.examples import EXAMPLES
from qa_fast.cli.startup import settle_process
from qa_fast.errors import UserError
from qa_fast.options import check_values, flag_of, option_of

# Arguments of several commands.
ModelName = Annotated[str, typer.Argument(help="Model folder, Hub id or 'minilm'.")]
ShardsName = Annotated[
    str, typer.Argument(help="Folder (or URL) that 'qa-fast featurize' made with the model's tokenizer.")
]
_PAIRS = dict[str, str] | None
# Characters of a list of choices that fits into a column of `--help`.
_LONGEST_LIST = 50


def with_records(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that its records declare.

    Each parameter whose type is a dataclass is replaced by one option for every field that `options.option` made; the
    record is built and checked when the command runs. A field that holds a dictionary of texts is given as
    NAME=VALUE; it and a field that holds a list may be given several times.

    Args:
        function: The command. The types of its parameters must be imported at the top of its module.

    Examples:
        >>> @with_records
        ... def train(shards: list[str], config: TrainConfig, quiet: bool = False) -> None: ...
    """
    records: dict[str, tuple[type, list[inspect.Parameter]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        record = parameter.annotation
        if isinstance(record, type) and dataclasses.is_dataclass(record):
            made = _parameters_of(record)
            records[parameter.name] = record, made
            parameters.extend(made)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(function)
    def command(**values: Any) -> None:
        for name, (record, options) in records.items():
            types = get_type_hints(record)
            fields = {option.name: values.pop(option.name) for option in options}
            pairs = {field: _column_pairs(value) for field, value in fields.items() if types[field] == _PAIRS}
            values[name] = record(**fields | pairs)
            # Before the command imports what it runs.
            getattr(values[name], "check", partial(check_values, values[name]))()
        function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameters_of(record: type) -> list[inspect.Parameter]:
    """Return a keyword parameter for each field of a record that is an option of the command line."""
    types = get_type_hints(record)
    parameters = []
    for field in dataclasses.fields(record):
        declared = option_of(field)
        if declared is None or not declared.command:
            continue
        kind = list[str] | None if types[field.name] == _PAIRS else types[field.name]
        listed = f"[{'|'.join(declared.choices)}]"
        short = len(listed) <= _LONGEST_LIST
        text = declared.help if short else f"{declared.help} One of {', '.join(declared.choices)}."
        option = typer.Option(
            *(declared.flag or flag_of(field.name)).split(),
            help=text + " May be repeated." * (kind == (list[str] | None)),
            metavar=listed if declared.choices and short else None,
            rich_help_panel=declared.group or None,
        )
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[kind, option],
            )
        )
    return parameters


def _column_pairs(columns: list[str] | None) -> dict[str, str]:
    """Return the mapping that `--columns a=b --columns c=d` (or `a=b,c=d`) means."""
    mapping = {}
    for pair in ",".join(columns or []).split(","):
        if not pair:
            continue
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs:
            raise UserError(f"--columns takes OURS=THEIRS, such as question=frage; received {pair!r}")
        mapping[ours.strip()] = theirs.strip()
    return mapping


class GroupedCommand(TyperCommand):
    """A command whose `--help` lists options under the headings that they declare, and ends with examples."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Typer would end without a word at an interrupt, and take a file that ends early for one."""
        settle_process()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise signals.Stopped from None
        except EOFError as error:
            raise UserError(f"files must be whole; one ends too early ({error or 'EOF'}): make it again") from error

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options under their headings."""
        for heading, parameters in sections_of(self, ctx).items():
            with formatter.section(heading):
                formatter.write_dl([parameter.get_help_record(ctx) for parameter in parameters])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, one a line, as they are."""
        lines = EXAMPLES.get(self.name or "", ())
        if lines:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in lines))


def sections_of(command: Any, ctx: Any) -> dict[str, list[Any]]:
    """Return the parameters of a command by the headings of its `--help`; options without one come last."""
    sections: dict[str, list[Any]] = {}
    rest = []
    for parameter in command.get_params(ctx):
        kind = "Arguments" if parameter.param_type_name == "argument" else None
        heading = getattr(parameter, "rich_help_panel", None) or kind
        if parameter.get_help_record(ctx) is None:
            continue
        if heading is None:
            rest.append(parameter)
        else:
            sections.setdefault(heading, []).append(parameter)
    return sections | {"Options": rest}
