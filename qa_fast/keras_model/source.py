"""What goes along with a model's weights: its config.json and its tokenizer's files, in memory.

In memory, since the folder that a model was read from may be gone when it is saved, and so that one `.keras` file holds
all of it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_fast.model.folder import read_json_config, tokenizer_files


@dataclass(frozen=True)
class Source:
    """The files of a model folder but for its weights.

    Attributes:
        config: What config.json says.
        files: The tokenizer's files by name.
    """

    config: dict[str, Any]
    files: dict[str, bytes]

    @classmethod
    def of_folder(cls, folder: Path) -> Source:
        """Read a model folder.

        Raises:
            UserError: It holds no config.json, or one of its files is none of its own, see `model.files.plain_file`.
        """
        return cls(read_json_config(folder), files_of(folder))

    def write(self, folder: Path) -> None:
        """Write all files into a folder that exists."""
        (folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @contextmanager
    def as_folder(self) -> Iterator[Path]:
        """A folder with the files, for as long as it is needed."""
        with tempfile.TemporaryDirectory(prefix="qa-fast-") as folder:
            self.write(Path(folder))
            yield Path(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files in a folder."""
    return {name: path.read_bytes() for name, path in tokenizer_files(folder).items()}
