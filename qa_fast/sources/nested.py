"""Reads nested SQuAD JSON in bulk: with Arrow's JSON reader, whose nested lists are then turned into rows.

No Python object is made for each question, which takes half the time of walking the parsed document and leaves nothing
for the garbage collector. Arrow reads only documents in which every value has its usual type. Anything else (a number
as id, a bad row, bytes that are not UTF-8) is left to the slow reader, which reports what is wrong and where.
"""

from __future__ import annotations

import codecs

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.raw import ANSWERS_TYPE, CONTEXT_TYPE, EXAMPLES
from qa_fast.sources.columns import lists_of_lengths
from qa_fast.sources.rows import bounded_tables

_ANSWERS = pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.int32())]))
_QUESTION = pa.struct(
    [("id", pa.string()), ("question", pa.string()), ("answers", _ANSWERS), ("is_impossible", pa.bool_())]
)
_PARAGRAPH = pa.struct([("context", pa.string()), ("qas", pa.list_(_QUESTION))])
_ARTICLE = pa.struct([("paragraphs", pa.list_(_PARAGRAPH))])
_DOCUMENT = pa.schema([("data", pa.list_(_ARTICLE))])
# The word "paragraphs" must occur in so many bytes at the start of a nested document.
_HEAD_BYTES = 1 << 16
# Arrow reads the document as one block, whose size is a 32-bit number.
_MOST_BYTES = 2**31 - 1024


def nested_tables(data: bytes) -> list[pa.Table] | None:
    """Return the rows of a nested SQuAD document.

    Args:
        data: UTF-8, with or without a byte order mark.

    Returns:
        Tables of `raw.EXAMPLES`, or None if the text must be read by the slow reader.
    """
    if len(data) > _MOST_BYTES or b'"paragraphs"' not in data[:_HEAD_BYTES]:
        return None
    data = data.removeprefix(codecs.BOM_UTF8)
    import pyarrow.json as pj

    try:
        document = pj.read_json(
            pa.BufferReader(data),
            pj.ReadOptions(block_size=len(data) + 1),
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
    if lists_of_answers.null_count:  # perhaps under another name
        return None
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
    answer_counts = pc.list_value_length(lists_of_answers)
    both = [lists_of_lengths(values, answer_counts) for values in answers.flatten()]
    distinct = contexts.dictionary_encode()
    paragraph_of = np.repeat(np.arange(len(paragraphs)), pc.list_value_length(lists[1]).to_numpy())
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
