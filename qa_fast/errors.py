"""Errors that the user can correct, each with a message of one line.

A message states the rule, the value received, and what to do. The command line prints it without a traceback and exits
with code 2; a library caller catches `UserError`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from typing import Any

_DIGITS = 60
# What an address may hold that nobody else should see: user and password, and keys such as those of signed addresses.
_USER = re.compile(r"(?<=://)[^/\s?#]*@")
_KEY = re.compile(
    r"([?&][^=&\s]*(?:sig|signature|token|key|secret|passwd|password|credentials?)=)[^&\s'\"]+", re.IGNORECASE
)


class UserError(ValueError):
    """A fault in the input, the options or the environment that the user can correct; the message says how.

    It is a `ValueError`, as other libraries raise in these cases. Code that catches `ValueError` for another reason
    must therefore let a `UserError` pass first.

    Secrets in addresses are left out of the message, see `without_secrets`.

    Examples:
        >>> try:
        ...     shards = qa_fast.open_shards("shards")
        ... except qa_fast.UserError as error:
        ...     print(error)
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(without_secrets(arg) if isinstance(arg, str) else arg for arg in args))


class MissingExtraError(UserError):
    """A command needs packages that an extra of qa-fast installs.

    Args:
        what: The command or feature, as users call it.
        extra: The extra's name in pyproject.toml.
        module: The module whose import failed.
    """

    def __init__(self, what: str, extra: str, module: str) -> None:
        install = f"pip install 'qa-fast[{extra}]'"
        if extra == "train":  # which holds CUDA's libraries, of several gigabytes
            install = "pip install 'qa-fast[train-cpu]', or 'qa-fast[train]' for an NVIDIA GPU"
        super().__init__(f"{what} needs packages that are not installed (no module named {module!r}): {install}")


class UnreachableError(UserError):
    """A remote place could not be reached or used; the same command may succeed later."""


def without_secrets(text: str) -> str:
    """Return a text whose addresses have lost user, password and signature. Every address that is shown passes here.

    Examples:
        >>> without_secrets("https://ane:secret@host/a.json?part=1&sig=0f3c")
        'https://host/a.json?part=1&sig=…'
    """
    return _KEY.sub(r"\1…", _USER.sub("", text)) if "://" in text or "?" in text else text


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def some_of(names: Sequence[str], most: int = 5) -> str:
    """Return names as a message lists them: the first ones, and the number of the others."""
    others = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + others


def shown(value: Any, most: int = 80) -> str:
    """Return a value as a message shows it: on one line, and short even if the value is long or deeply nested."""
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:  # Python refuses to write out thousands of digits
        return f"a number of more than {_DIGITS} digits"
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother, brief.maxlong = 3, most, most, most
    text = " ".join(brief.repr(value).split())
    return text if len(text) <= most + 20 else f"{text[:most]}…"
