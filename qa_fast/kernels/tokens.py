"""Columns of tokens int32[T, 3]: id, first character, one past the last; characters of a text or of a unit."""

ID, CHAR_START, CHAR_END = range(3)
