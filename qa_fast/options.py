"""Options, declared once: a field of a frozen dataclass holds its type, default, bounds, choices and help text.

The command line (`cli/records.py`), the web API's request model and the documentation are generated from these fields,
and `check_values` enforces what they declare. A record's own `check` adds the rules that concern several fields.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from qa_fast.errors import UserError, shown

_KEY = "option"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """The declaration of a field, apart from its name, type and default.

    Attributes:
        help: One sentence for `--help`, the API's documentation and the documentation site.
        group: Heading under which `--help` lists the option; "" lists it first.
        choices: The values that a text may have; empty if any text is valid.
        least: Smallest value that is allowed.
        above: The value must be greater than this.
        most: Largest value that is allowed.
        below: The value must be less than this.
        hint: The end of the error message for a value out of bounds, such as "try 5e-5".
        command: Whether the command line has the option.
        flag: Name on the command line if it is not the field's or there are several, such as "--max-length",
            "--words/--no-words" or "--text -t".
    """

    help: str
    group: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    hint: str = ""
    command: bool = True
    flag: str = ""

    @property
    def bounds(self) -> str:
        """The allowed range in words, such as "at least 0 and below 1"; "" without bounds."""
        parts = []
        for words, bound in (
            ("at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        ):
            if bound is not None:
                parts.append(f"{words} {bound:,}")
        return " and ".join(parts)

    def allows(self, value: Any) -> bool:
        """Return whether a number is within the bounds; NaN never is."""
        return (
            value == value
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


def option(default: Any, help: str, **declared: Any) -> Any:
    """Return a dataclass field that declares an option.

    Args:
        default: The field's default value.
        help: See `Option`.
        declared: The other attributes of `Option`.

    Examples:
        >>> @dataclass(frozen=True)
        ... class Settings:
        ...     epochs: int = option(2, "Passes over the training data.", least=1)
    """
    return dataclasses.field(default=default, metadata={_KEY: Option(help, **declared)})


def option_of(field: dataclasses.Field[Any]) -> Option | None:
    """Return the declaration of a field; None for a plain field."""
    return field.metadata.get(_KEY)


def flag_of(name: str) -> str:
    """Return a field's name as the command line spells it: `--max-length` for `max_length`."""
    return "--" + name.replace("_", "-")


def check_values(record: Any) -> None:
    """Refuse values of another type, not among the choices or out of bounds. None is allowed if it is the default.

    Numbers of numpy become Python's, which JSON can hold.

    Args:
        record: A dataclass whose fields were made by `option`.

    Raises:
        UserError: A value is not allowed; the message names the option as the command line spells it.
    """
    kinds = _kinds_of(type(record))
    for field in dataclasses.fields(record):
        declared, value = option_of(field), getattr(record, field.name)
        if declared is None or (value is None and field.default is None):
            continue
        flag = re.split("[ /]", declared.flag)[0] or flag_of(field.name)
        value = _typed(value, kinds[field.name], flag)
        object.__setattr__(record, field.name, value)
        if declared.choices and value not in declared.choices:
            raise UserError(f"{flag} must be one of {', '.join(declared.choices)}; received {shown(value)}")
        if declared.bounds and not declared.allows(value):
            hint = f": {declared.hint}" if declared.hint else ""
            raise UserError(f"{flag} must be {declared.bounds}; received {shown(value)}{hint}")


def _kinds_of(record: type) -> dict[str, Any]:
    """Return the type of each field of a record, without None."""
    kinds = {}
    for name, hint in get_type_hints(record).items():
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        (kind, *others) = [option for option in options if option is not type(None)]
        kinds[name] = None if others else kind
    return kinds


def _typed(value: Any, kind: Any, flag: str) -> Any:
    """Return a value as the type that its option has; types other than numbers and truth are not looked at.

    Raises:
        UserError: It is of another type.
    """
    is_truth = isinstance(value, bool) or type(value).__name__ == "bool"  # that of numpy
    accepted, rule = {
        bool: (is_truth, "true or false"),
        int: (isinstance(value, Integral) and not is_truth, "a whole number"),
        float: (isinstance(value, Real) and not is_truth, "a number"),
    }.get(kind, (None, ""))
    if accepted is None:
        return value
    if not accepted:
        raise UserError(f"{flag} must be {rule}; received {shown(value)}")
    return value if isinstance(value, bool | int | float) else kind(value)


def takes(*records: type) -> Callable[[Function], Function]:
    """Show the fields of records as keyword parameters of a function that takes `**options`.

    In its signature they take the place of `options`, and in its docstring that of the line "options: ...", with their
    help texts. Fields that the function names as parameters of its own are not repeated.

    Args:
        records: Dataclasses whose fields were made by `option`.

    Examples:
        >>> @takes(BuildOptions)
        ... def build_shards(source: str, **options: Any) -> BuildResult: ...
    """

    def shown_in(function: Function) -> Function:
        *own, options = inspect.signature(function).parameters.values()
        added, lines = [], []
        for record in records:
            types = get_type_hints(record)
            for field in dataclasses.fields(record):
                declared = option_of(field)
                if declared is None or any(field.name == parameter.name for parameter in own):
                    continue
                added.append(options.replace(name=field.name, kind=inspect.Parameter.KEYWORD_ONLY,
                                             default=field.default, annotation=types[field.name]))  # fmt: skip
                lines.append(f"{field.name}: {declared.help}")
        function.__signature__ = inspect.signature(function).replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        function.__doc__ = re.sub(
            r"^( *)options: .*$", lambda line: "\n".join(line[1] + text for text in lines), function.__doc__ or "",
            flags=re.MULTILINE,
        )  # fmt: skip
        return function

    return shown_in
