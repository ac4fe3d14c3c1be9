"""Divides the train split of a source into train and validation, so that no document is in both.

A document is a text, with all texts of the same article (nested SQuAD) or with the same `title` (rows). Documents are
taken in the order of a hash, until the validation split has about its share of the questions. The division therefore
depends on the data alone: not on the order of files, on threads or on processes. A block carries the hashes of the
texts that are held out, and is filtered where it is read.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qa_fast import store
from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError
from qa_fast.sources.forms import name_of, value_of
from qa_fast.sources.json_text import parse_json
from qa_fast.sources.layouts import records_of
from qa_fast.sources.pieces import (
    ARROW_FILE,
    ARROW_STREAM,
    BOM,
    JSON_DOCUMENT,
    JSON_LINES,
    PARQUET,
    TEXT_TABLE,
    WHOLE_JSON,
    Block,
    Half,
    Piece,
    hash_of_text,
    hashes_of_texts,
    is_lines,
)
from qa_fast.sources.read import bytes_of, names_in, read_piece
from qa_fast.sources.source import MemorySource, Source

TRAIN, VALIDATION = "train", "validation"
# An article or a title; a text is its hash.
Document = str | int


@dataclass(frozen=True, kw_only=True)
class DividedSource(Source):
    """A source whose train split was divided.

    Attributes:
        whole: The source before.
        held_out: The texts of the validation split, see `Half`.
        questions: Number of rows of both splits.
    """

    whole: Source
    held_out: bytes
    questions: dict[str, int]

    @property
    def form(self) -> str:
        """See `Source`."""
        return self.whole.form

    def blocks(self) -> Iterator[Block]:
        """See `Source`."""
        for split in self.splits:
            for block in self.whole.blocks():
                if split in (TRAIN, VALIDATION) and block.split == TRAIN:
                    yield replace(block, split=split, half=Half(self.held_out, split == VALIDATION))
                elif block.split == split:
                    yield block

    def rows(self, split: str) -> int | None:
        """See `Source`."""
        return self.questions[split] if split in self.questions else self.whole.rows(split)

    def checksums(self) -> dict[str, str]:
        """See `Source`; those of the source before it was divided."""
        return self.whole.checksums()


def divide(source: Source, share: float, say: Callable[[str], None] = lambda _: None) -> DividedSource:
    """Divide the train split of a source by document. The split is read once for this.

    Args:
        source: A source with a train split and no validation split.
        share: Share of the questions that the validation split receives, as nearly as whole documents allow.
        say: Called with a line about the result.

    Raises:
        UserError: The source has other splits, or fewer than two documents.

    Examples:
        >>> divide(resolve_source("my.json"), 0.2).splits.keys()
        dict_keys(['train', 'validation'])
    """
    if TRAIN not in source.splits or VALIDATION in source.splits:
        raise UserError(
            f"--validation-share divides a train split and makes the validation split; {source.name} has "
            f"{', '.join(source.splits)}: leave it out, or pass --split {TRAIN} to divide that one"
        )
    questions: Counter[int] = Counter()  # of each text
    links: list[tuple[Document, int]] = []
    last: int | None = None
    for block in source.blocks():
        for piece in block.pieces if block.split == TRAIN else ():
            for table, _ in read_piece(piece, source.columns):
                questions.update(hashes_of_texts(table["context"]).tolist())
            of_piece = list(_documents_of(piece, source.columns))
            if piece.paragraph and last is not None and of_piece:  # it begins inside of an article
                links.append((last, of_piece[0][1]))
            links += of_piece
            last = of_piece[-1][1] if of_piece else None
    documents, kind = _joined(questions, links), ""
    if isinstance(source, MemorySource):
        kind = " (each text is a document, since titles of tables in memory are not read)"
    elif len(documents) == 1 and len(questions) > 1:
        documents, kind = [[text] for text in questions], " (all texts have one title, so each is taken for a document)"
    held_out = _held_out(documents, questions, share, source.name)
    texts = np.sort(np.array([text for document in held_out for text in document], np.uint64))
    total, count = questions.total(), sum(questions[int(text)] for text in texts)
    say(
        f"{VALIDATION}: {len(held_out)} of {len(documents)} documents with {count:,} of {total:,} questions "
        f"({count / total:.0%}); the others are {TRAIN}{kind}"
    )
    paths = source.splits[TRAIN]
    return DividedSource(
        name=source.name,
        origin=source.origin,
        splits={TRAIN: paths, VALIDATION: paths, **source.splits},
        columns=source.columns,
        skipped=source.skipped,
        whole=source,
        held_out=texts.tobytes(),
        questions={TRAIN: total - count, VALIDATION: count},
    )


def rows_held_out(context: pa.ChunkedArray, share: float) -> npt.NDArray[np.bool_]:
    """Return bool[E], the rows to hold out, where each text is a document.

    Args:
        context: The column `context` of a table of examples.
        share: As for `divide`.

    Raises:
        UserError: There are fewer than two texts.
    """
    hashes = hashes_of_texts(context)
    questions = Counter(hashes.tolist())
    held_out = _held_out([[text] for text in questions], questions, share, "the split")
    return np.isin(hashes, np.array([text for document in held_out for text in document], np.uint64))


def _held_out(documents: list[list[int]], questions: Mapping[int, int], share: float, where: str) -> list[list[int]]:
    """Return the documents to hold out, given the texts of each and the number of questions of each text."""
    if len(documents) < 2:
        raise UserError(
            f"data must have at least two documents to be divided, since one is never in both splits; {where} has "
            f"{len(documents)}: add documents, or divide the text into several"
        )
    sizes = {id(document): sum(questions[text] for text in document) for document in documents}
    wanted, count = share * sum(sizes.values()), 0
    chosen: list[list[int]] = []
    for document in sorted(documents, key=min):
        nearer = abs(count + sizes[id(document)] - wanted) < abs(count - wanted)
        if nearer and len(chosen) < len(documents) - 1:
            chosen.append(document)
            count += sizes[id(document)]
    return chosen or [min(documents, key=lambda document: (sizes[id(document)], min(document)))]


def _joined(texts: Mapping[int, int], links: list[tuple[Document, int]]) -> list[list[int]]:
    """Return the texts by document: two texts with a link to the same place are of one document."""
    parent: dict[Document, Document] = {}

    def root(place: Document) -> Document:
        while (above := parent.get(place, place)) != place:
            parent[place] = parent.get(above, above)
            place = above
        return place

    for document, text in links:
        parent[root(document)] = root(text)
    joined: dict[Document, list[int]] = {}
    for text in texts:
        joined.setdefault(root(text), []).append(text)
    return list(joined.values())


def _documents_of(piece: Piece, columns: Mapping[str, str]) -> Iterator[tuple[Document, int]]:
    """Yield the article or the title of texts, with the hash of each text; nothing for texts that stand alone."""
    with contextlib.suppress(UserError):
        if piece.kind in (WHOLE_JSON, JSON_LINES, JSON_DOCUMENT):
            for number, entry in enumerate(_entries(piece)):
                title, paragraphs = entry.get(_title_among(entry)), entry.get("paragraphs")
                texts, document = [entry.get(columns.get("context") or name_of("context", entry) or "")], ""
                if isinstance(paragraphs, list):
                    texts = [value_of("context", paragraph) for paragraph in paragraphs if isinstance(paragraph, dict)]
                    document = f"{piece.path} {piece.begin} {number}"
                if isinstance(title, str | int) and title != "":
                    document = f"title {title}"
                if document:
                    yield from ((document, hash_of_text(text)) for text in texts if isinstance(text, str))
        elif piece.kind in (PARQUET, ARROW_FILE, ARROW_STREAM, TEXT_TABLE):
            title = _title_among(names_in(store.place(piece.path)))
            # Titles take the place of ids, which may be numbers, too.
            for table, _ in read_piece(piece, {**columns, "id": title}, answered=False) if title else ():
                context = one_chunk(table["context"]).cast("string")
                for title, text in zip(table["id"].to_pylist(), context.to_pylist(), strict=True):
                    if title:
                        yield f"title {title}", hash_of_text(text)


def _title_among(names: Iterable[str]) -> str:
    """Return the name of the title among those of columns; an empty text if there is none."""
    return next((name for name in names if name.strip().lower() == "title"), "")


def _entries(piece: Piece) -> Iterator[dict[str, Any]]:
    """Yield the articles or rows of a piece of JSON."""
    data = bytes_of(store.place(piece.path), piece).removeprefix(BOM)
    entries: Any = []
    if piece.kind == JSON_LINES or (piece.kind == WHOLE_JSON and is_lines(data)):
        for line in filter(bytes.strip, data.split(b"\n")):
            with contextlib.suppress(UserError):  # a bad line is rejected when it is read
                entries.append(parse_json(line, piece.path))
    else:
        entries = records_of(parse_json(data, piece.path)) or []
    yield from (entry for entry in entries if isinstance(entry, dict))
