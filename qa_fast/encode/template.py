"""The special tokens around a question and its context, found by encoding one pair.

Every pair is encoded as `prefix question middle context suffix`. The encoding of one pair therefore shows the ids and
type ids of all five parts, whatever kind of post-processor the tokenizer has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_fast.encode.library import pair_around
from qa_fast.errors import UserError
from qa_fast.model.fields import MOST_TOKENS
from qa_fast.schema import Int8s, Int32s


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens around a question and its context.

    Attributes:
        prefix: int32[.], special ids before the question.
        middle: int32[.], special ids between question and context.
        suffix: int32[.], special ids behind the context.
        part_types: int8[5], type ids of prefix, question, middle, context and suffix.
        cls_in_prefix: Whether CLS stands before the question (BERT and most) or behind the context.
        cls_offset: Its index in the prefix, or in the suffix.
    """

    prefix: Int32s
    middle: Int32s
    suffix: Int32s
    part_types: Int8s
    cls_in_prefix: bool
    cls_offset: int

    @property
    def special_tokens(self) -> int:
        """The number of special tokens in a pair."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    @property
    def highest_id(self) -> int:
        """The highest id of a special token; -1 if there is none."""
        return int(np.concatenate([self.prefix, self.middle, self.suffix]).max(initial=-1))

    def cls_positions(self, feature_lengths: Int32s) -> Int32s:
        """Return int32[F]: the position of CLS in features of the given lengths int32[F]."""
        if self.cls_in_prefix:
            return np.full(len(feature_lengths), self.cls_offset, np.int32)
        return (feature_lengths - len(self.suffix) + self.cls_offset).astype(np.int32)


def probe_template(settings: dict[str, Any], cls_id: int) -> PairTemplate:
    """Read the template off a post-processor.

    Args:
        settings: The parsed tokenizer.json.
        cls_id: Id of its CLS token.

    Raises:
        UserError: A pair is not encoded as question, then context, or holds no CLS.
    """
    ids, types = pair_around(settings.get("post_processor"), MOST_TOKENS)
    question, context = np.flatnonzero(ids == MOST_TOKENS), np.flatnonzero(ids == MOST_TOKENS + 1)
    if len(question) == 0 or len(context) == 0 or question[-1] > context[0]:
        raise UserError(
            "the tokenizer must encode a pair as question, then context; this one does not: "
            "use another model's tokenizer"
        )
    prefix, middle, suffix = ids[: question[0]], ids[question[-1] + 1 : context[0]], ids[context[-1] + 1 :]

    def type_of(positions: np.ndarray, fallback: int) -> int:
        return int(types[positions[0]]) if len(positions) else fallback

    every = np.arange(len(ids))
    question_type, context_type = int(types[question[0]]), int(types[context[0]])
    part_types = np.array(
        [
            type_of(every[: question[0]], question_type),
            question_type,
            type_of(every[question[-1] + 1 : context[0]], question_type),
            context_type,
            type_of(every[context[-1] + 1 :], context_type),
        ],
        np.int8,
    )
    for in_prefix, part in ((True, prefix), (False, suffix)):
        if cls_id in part:
            return PairTemplate(prefix, middle, suffix, part_types, in_prefix, part.tolist().index(cls_id))
    raise UserError(
        f"unanswerable questions are labelled at the CLS token, and this tokenizer puts none (id {cls_id}) "
        "into a pair: use a model whose tokenizer adds one"
    )
