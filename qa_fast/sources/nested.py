"""Nested SQuAD JSON in bulk: Arrow's own JSON reader, then list offsets turned into rows.

No Python object is made per question, which takes half the time of walking the parsed document and leaves nothing for
the garbage collector. Arrow is strict: it reads documents whose every value has its usual type, and anything else
(a number as id, a bad row, bytes that are not UTF-8) is left to the slow way, which says what is wrong and where.
"""

from __future__ import annotations

import codecs

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.raw import ANSWERS_TYPE, CONTEXT_TYPE, EXAMPLES
from qa_fast.sources.rows import bounded_tables

_ANSWERS = pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.int32())]))
_QUESTION = pa.struct(
    [("id", pa.string()), ("question", pa.string()), ("answers", _ANSWERS), ("is_impossible", pa.bool_())]
)
_PARAGRAPH = pa.struct([("context", pa.string()), ("qas", pa.list_(_QUESTION))])
_ARTICLE = pa.struct([("paragraphs", pa.list_(_PARAGRAPH))])
_DOCUMENT = pa.schema([("data", pa.list_(_ARTICLE))])
# Where the first paragraphs must show that this is a nested document.
_HEAD_BYTES = 1 << 16
# Arrow reads the document as one block, and counts a block's bytes in 32 bits.
_MOST_BYTES = 2**31 - 1024


def nested_tables(data: pa.Buffer) -> list[pa.Table] | None:
    """The rows of a nested SQuAD document.

    Args:
        data: UTF-8, with or without a byte order mark.

    Returns:
        Tables of `raw.EXAMPLES`, or None where the text is not plainly such a one.
    """
    if not 0 < data.size <= _MOST_BYTES:
        return None
    head = data.slice(0, min(_HEAD_BYTES, data.size)).to_pybytes()
    if b'"paragraphs"' not in head:
        return None
    if head.startswith(codecs.BOM_UTF8):
        data = data.slice(len(codecs.BOM_UTF8))
    import pyarrow.json as pj

    try:
        document = pj.read_json(
            pa.BufferReader(data),
            pj.ReadOptions(block_size=data.size + 1),
            pj.ParseOptions(explicit_schema=_DOCUMENT, newlines_in_values=True, unexpected_field_behavior="ignore"),
        )
        return _rows(document["data"]) if document.num_rows == 1 else None
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def _rows(documents: pa.ChunkedArray) -> list[pa.Table] | None:
    articles = documents.combine_chunks().flatten()
    lists = [articles.field("paragraphs")]
    paragraphs = lists[0].flatten()
    contexts, lists = paragraphs.field("context"), [*lists, paragraphs.field("qas")]
    questions = lists[1].flatten()
    ids, texts = questions.field("id"), questions.field("question")
    lists_of_answers, impossible = questions.field("answers"), questions.field("is_impossible")
    if impossible.null_count < len(impossible) and pc.any(impossible).as_py():
        lists_of_answers = pc.if_else(
            pc.fill_null(impossible, False), pa.scalar(None, lists_of_answers.type), lists_of_answers
        )
    answers = lists_of_answers.flatten()
    columns = (articles, *lists, paragraphs, contexts, questions, ids, texts, answers, *answers.flatten())
    if any(column.null_count for column in columns) or not len(questions):
        return None
    for column in (contexts, ids, texts, answers):
        column.validate(full=True)
    answer_lists = pa.array(_offsets(lists_of_answers))
    both = [pa.ListArray.from_arrays(answer_lists, values) for values in answers.flatten()]
    distinct = contexts.dictionary_encode()
    paragraph_of = np.repeat(np.arange(len(paragraphs)), np.diff(_offsets(lists[1])))
    context_index = distinct.indices.to_numpy()[paragraph_of]
    table = pa.Table.from_arrays(
        [
            ids,
            texts,
            pa.DictionaryArray.from_arrays(pa.array(context_index), distinct.dictionary).cast(CONTEXT_TYPE),
            pa.StructArray.from_arrays(both, fields=list(ANSWERS_TYPE)),
        ],
        schema=EXAMPLES,
    )
    return list(bounded_tables(table))


def _offsets(lists: pa.Array) -> np.ndarray:
    """int32[n + 1], where each list starts in `lists.flatten()`."""
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), out=offsets[1:])
    return offsets
