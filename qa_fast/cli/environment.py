"""A command whose arguments and options may also be given by environment variables, as operators of servers do."""

from __future__ import annotations

import os
import re
from typing import Any

import typer

from qa_fast.cli.records import GroupedCommand
from qa_fast.errors import UserError


class EnvironmentCommand(GroupedCommand):
    """A command that takes what the command line leaves out from variables named QA_FAST_COMMAND_OPTION.

    A message about a value that came from a variable names the variable in place of the option.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        from qa_fast.serve.limits import KEY_VARIABLE  # other commands do without its module

        self._prefix = f"QA_FAST_{self.name}_".upper()
        for parameter in self.params:
            name = _flag(parameter).lstrip("-").replace("-", "_")
            parameter.envvar = [self._prefix + name.upper(), *([KEY_VARIABLE] if name == "api_key" else [])]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line and the variables."""
        known = {name for parameter in self.params for name in parameter.envvar or ()}
        unknown = [name for name in os.environ if name.startswith(self._prefix) and name not in known]
        if unknown:
            typer.echo(f"no option has the environment variable {', '.join(sorted(unknown))}: ignored", err=True)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.param_hint = _used_variables(ctx).get(error.param, error.param_hint)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            message = str(error)
            for parameter, variable in _used_variables(ctx).items():
                message = re.sub(rf"(?<![\w/-]){re.escape(_flag(parameter))}(?![\w/-])", variable, message)
            raise UserError(message) from error


def _flag(parameter: Any) -> str:
    """Return an option or argument as messages spell it, such as --port or MODEL."""
    name = str(max(parameter.opts, key=len))
    return name if name.startswith("-") else name.upper()


def _used_variables(ctx: Any) -> dict[Any, str]:
    """Return the variables that gave parameters their values, by the parameters."""
    return {
        parameter: next(name for name in parameter.envvar if os.environ.get(name))
        for parameter in ctx.command.params
        if getattr(ctx.get_parameter_source(parameter.name), "name", "") == "ENVIRONMENT"
    }
