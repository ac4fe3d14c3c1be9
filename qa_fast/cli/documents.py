"""Reads the documents that a command names: text files, folders of them, and standard input."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from qa_fast.cli.extras import say
from qa_fast.errors import UserError, some_of
from qa_fast.store import is_folder

# As much as a source's context may have.
_MOST_BYTES = 1 << 24
_ENDINGS = (".txt", ".md", ".markdown")  # of the files in a folder that are read
_NAMED = 5  # names in a line about many files


def text_of(path: Path | None) -> str:
    """Return the text of a file, or of standard input.

    Raises:
        UserError: It cannot be read, is too large, or is not text in UTF-8.
    """
    from qa_fast.sources.plain import not_utf8, unwrapped

    name = "the document in standard input" if path is None else f"the document in {path}"
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path is None else path.open("rb") as file:
            # The first read of a pipe may be too short to show a compression.
            whole = io.BytesIO(file.read(_MOST_BYTES + 1))
            data = unwrapped(whole, name, "text")[0].read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UserError(f"{name} must have at most {_MOST_BYTES >> 20} MiB; it has more: divide it")
        if b"\0" in data:
            raise UserError(f"{name} must be text; received null bytes, as binary files have them: convert it")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{name} must be a readable file; it is not: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise not_utf8(name, data, error.start, f"at byte {error.start}") from None


def texts_of(places: list[Path]) -> dict[str, str]:
    """Return the texts of files and of the text files in folders, by path. Whatever is left out is told.

    A file that was named must be readable; one in a folder is left out if it is not.

    Raises:
        UserError: A file or folder that was named cannot be read, or there is no text.
    """
    texts: dict[str, str] = {}
    empty, others, unreadable = [], [], []
    seen: set[str] = set()  # a file that was named twice, or that a link names as well, is one document
    for place in places:
        in_folder = is_folder(place)
        for path in _files_in(place) if in_folder else [place]:
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            if in_folder and not (path.suffix.lower() in _ENDINGS and os.path.isfile(path)):
                others.append(str(path))
                continue
            try:
                text = text_of(path)
            except UserError as error:
                if not in_folder:
                    raise
                unreadable.append(str(path))
                if len(unreadable) <= _NAMED:
                    say(f"left out: {error}")
                continue
            if text.strip():
                texts[str(path)] = text
            else:
                empty.append(str(path))
    _tell(unreadable[_NAMED:], "more files that cannot be read as text")
    _tell(others, f"that are no {', '.join(_ENDINGS)} files")
    _tell(empty, "without text")
    if not texts:
        raise UserError(
            f"--documents must name text files, or folders with files that end in {', '.join(_ENDINGS)}; received "
            f"{', '.join(map(str, places))}, without any text: name other files"
        )
    return texts


def _files_in(folder: Path) -> list[Path]:
    """Return all files below a folder, by name. Links to folders are not followed, which might not end."""
    found: list[Path] = []

    def refused(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise UserError(
                f"--documents must name readable files or folders; {folder}: {error.strerror}: change its rights"
            )
        say(f"left out: the folder {error.filename} cannot be read, {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=refused):
        folders.sort()
        found += [Path(place, name) for name in names]
        found += [Path(place, name) for name in folders if os.path.islink(os.path.join(place, name))]
    return sorted(found)


def _tell(paths: list[str], kind: str) -> None:
    if paths:
        say(f"left out: {len(paths):,} {kind}: {some_of(paths, _NAMED)}")
