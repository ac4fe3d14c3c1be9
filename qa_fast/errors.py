"""What a user can do something about, told in one line.

A message says the rule, what was received, and what to do. The command line prints it without a
traceback and exits with code 2; a library caller catches `UserError`.
"""

from __future__ import annotations

from typing import Any

_SHOWN = 60


class UserError(ValueError):
    """Input, options or surroundings that the user can put right; the message says how.

    A `ValueError`, as other libraries raise for these; so an `except ValueError` around code that may raise it lets it
    pass first.
    """


class MissingExtraError(UserError):
    """A command needs packages that an extra of qa-fast installs.

    Args:
        what: The command or feature, as the user names it.
        extra: The extra's name in pyproject.toml.
        module: The module whose import failed.
    """

    def __init__(self, what: str, extra: str, module: str) -> None:
        super().__init__(
            f"{what} needs packages that are not installed (no module named {module!r}): pip install 'qa-fast[{extra}]'"
        )


class UnreachableError(UserError):
    """A place elsewhere could not be reached or used; the same command may do better later."""


def shown(value: Any) -> str:
    """A value as a message shows it: on one line, and not longer than a reader wants."""
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:  # Python refuses to write out thousands of digits
        return f"a number of more than {_SHOWN} digits"
    written = repr(value[:_SHOWN] if isinstance(value, str | bytes) else value)
    return written if len(written) <= _SHOWN else written[: _SHOWN - 1] + "…"
