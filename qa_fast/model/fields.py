"""Read the fields of a `config.json`, each with its type and range.

A model folder may come from anybody, and layers are built from these numbers. The bounds are several times the numbers
of any published encoder. They bound what depends on a number alone (lists of blocks, tables of distances); sizes of
weights are compared with the weights before anything is built (`checkpoint.checked_config`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qa_fast.errors import UserError, shown

MOST_TOKENS, MOST_WIDTH, MOST_BLOCKS, MOST_POSITIONS, MOST_TYPES = 1 << 24, 1 << 17, 1 << 10, 1 << 20, 1 << 6
_MISSING: Any = object()


@dataclass(frozen=True)
class Fields:
    """A parsed JSON object.

    Attributes:
        raw: The object.
        file: Name of its file, for messages.
    """

    raw: Mapping[str, Any]
    file: str = "config.json"

    def __contains__(self, name: str) -> bool:
        return name in self.raw

    def under(self, **fields: Any) -> Fields:
        """Return a copy with these fields where the object lacks them."""
        return Fields({**fields, **self.raw}, self.file)

    def over(self, **fields: Any) -> Fields:
        """Return a copy with these fields in place of its own."""
        return Fields({**self.raw, **fields}, self.file)

    def size(self, name: str, default: Any = _MISSING, *, least: int = 1, most: int = MOST_WIDTH) -> int:
        """Read an integer from a range.

        Raises:
            KeyError: The field is missing, and there is no default.
            UserError: The value is not such an integer.
        """
        value = self._get(name, default)
        if type(value) is not int or not least <= value <= most:
            raise self._refused(name, f"a whole number from {least} to {most}", value)
        return value

    def number(self, name: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
        """Read a finite number from a range; for errors see `size`."""
        value = self._get(name, default)
        if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
            raise self._refused(name, f"a number from {least:g} to {most:g}", value)
        return float(value)

    def positive(self, name: str, default: float, most: float = 1e12) -> float:
        """Read a number above 0; for errors see `size`."""
        value = self.number(name, default, most=most)
        if value <= 0:
            raise self._refused(name, "a number above 0", value)
        return value

    def rate(self, name: str, default: float) -> float:
        """Read a rate of dropout in [0, 1); null means the default. For errors see `size`."""
        value = default if self.raw.get(name) is None else self.number(name, default, most=1.0)
        if value == 1.0:
            raise self._refused(name, "a number from 0 to less than 1", value)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Read a boolean; for errors see `size`."""
        value = self._get(name, default)
        if type(value) is not bool:
            raise self._refused(name, "true or false", value)
        return value

    def text(self, name: str, default: Any = _MISSING) -> str:
        """Read a text; null means the default. For errors see `size`."""
        value = self._get(name, default)
        value = default if value is None and default is not _MISSING else value
        if type(value) is not str:
            raise self._refused(name, "a text", value)
        return value

    def texts(self, name: str, separator: str | None = None) -> list[str]:
        """Read a list of texts, or one text that `separator` divides; null means an empty list."""
        value = self._get(name, None)
        value = [] if value is None else value.split(separator) if separator and isinstance(value, str) else value
        if type(value) is not list or not all(type(text) is str for text in value):
            raise self._refused(name, "a list of texts", value)
        return value

    def within(self, name: str) -> Fields:
        """Read an object; null means an empty one. For errors see `size`."""
        value = self._get(name, None)
        if value is not None and not isinstance(value, dict):
            raise self._refused(name, "an object", value)
        return Fields(value or {}, self.file)

    def pad_id(self, default: int) -> int:
        """Read the padding token's id; null, as in many files, means the default."""
        return default if self.raw.get("pad_token_id") is None else self.size("pad_token_id", least=0, most=MOST_TOKENS)

    def _get(self, name: str, default: Any) -> Any:
        if default is _MISSING and name not in self.raw:
            raise KeyError(name)
        return self.raw.get(name, default)

    def _refused(self, name: str, rule: str, value: Any) -> UserError:
        return UserError(
            f"{name} must be {rule}; received {shown(value)} in {self.file}: use the {self.file} that belongs to the "
            "model"
        )
