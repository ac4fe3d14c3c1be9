"""The files that belong to a model's weights: config.json and the tokenizer's files.

They are kept in memory, because the model's folder may no longer exist when the model is saved, and so that one
`.keras` file can hold everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import read_settings, write_settings
from qa_fast.model.folder import read_json_config, tokenizer_files
from qa_fast.temporary import temporary_folder


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model folder without the weights.

    Attributes:
        config: The contents of config.json.
        files: The tokenizer's files by name.
        answering: The model's own options of answering.
    """

    config: dict[str, Any]
    files: dict[str, bytes]
    answering: AnswerOptions = field(default_factory=AnswerOptions)

    @classmethod
    def of_folder(cls, folder: Path) -> ModelFiles:
        """Read a model folder.

        Raises:
            UserError: It holds no config.json, a file is a link to another place (see `model.files.plain_file`), or the
                options of answering are not valid.
        """
        return cls(read_json_config(folder), files_of(folder), read_settings(folder))

    def write(self, folder: Path) -> None:
        """Write all files into an existing folder."""
        (folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        write_settings(folder, self.answering)

    @contextmanager
    def as_folder(self) -> Iterator[Path]:
        """Yield a temporary folder with the files."""
        with temporary_folder() as folder:
            self.write(folder)
            yield folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the tokenizer's files in a folder, by name."""
    return {name: path.read_bytes() for name, path in tokenizer_files(folder).items()}
