"""Plain units of Unigram tokenizers with Metaspace, split in a kernel; the others are left to the Rust tokenizer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_fast.encode.encoded import EncodedTexts, encode_units
from qa_fast.encode.library import normalizer_of, pre_tokenizer_of
from qa_fast.encode.steps import normalizers_of
from qa_fast.encode.vocabulary import vocabulary_of
from qa_fast.kernels import unigram as kernels
from qa_fast.kernels.vocabulary import Vocabulary
from qa_fast.schema import Int64s

# Letters, marks, dashes, quotes and currencies that no normal form joins with a neighbour; those begin at U+0300.
_ALONE = (range(0x21, 0x7F), range(0xA1, 0x250), range(0x2010, 0x2028), range(0x2030, 0x205F), range(0x20A0, 0x20C0))


@dataclass(frozen=True)
class Unigram:
    """Tokenizes units of a Unigram tokenizer.

    Attributes:
        rules: The settings of its normaliser and of Metaspace.
        vocabulary: The tokens.
        scores: float64[V], logarithms of their probabilities.
    """

    rules: kernels.SpaceRules
    vocabulary: Vocabulary
    scores: np.ndarray

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Unigram | None:
        """Return the splitter of a tokenizer.json; None if its model or pre-tokenizer is another."""
        model, pre = settings.get("model") or {}, settings.get("pre_tokenizer") or {}
        steps = pre.get("pretokenizers", [pre])
        metaspace = steps[-1]
        if model.get("type") != "Unigram" or metaspace.get("type") != "Metaspace":
            return None
        replacement = metaspace["replacement"]
        # The library is asked, since old files spell this setting in other ways.
        words = pre_tokenizer_of(pre, [replacement + "a"])("a a")
        prepends, parted = words[0] == 1, steps[0]["type"] == "WhitespaceSplit"
        if parted and not (prepends and words[-1] == 1):
            return None
        ids = {token: number for number, (token, _) in enumerate(model["vocab"])}
        scores = np.fromiter((model["vocab"][number][1] for number in ids.values()), np.float64, len(ids))
        normalize = normalizer_of(settings.get("normalizer"))
        replaced = "".join(step.get("pattern", {}).get("String", "") for step in normalizers_of(settings))
        allowed = np.zeros(_ALONE[-1].stop, np.uint8)
        for code in itertools.chain(*_ALONE):
            char = chr(code)
            # The replacement itself separates words wherever it occurs in a text.
            allowed[code] = normalize(char) == char and char != replacement and char not in replaced
        lead = np.array(bytearray(replacement.encode()), np.uint8)
        return cls(kernels.SpaceRules(allowed, lead, prepends, parted), vocabulary_of(ids), scores)

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> tuple[np.ndarray, EncodedTexts]:
        """Tokenize units; see `wordpiece.WordPiece.encode`."""
        sizes = ends - begins
        room = int(sizes.max(initial=0)) + len(self.rules.replacement) + 1
        scratch = kernels.SplitScratch(
            *(np.empty(room, dtype) for dtype in (np.uint8, np.int32, np.float64, np.int32, np.int32))
        )
        return encode_units(
            lambda *out: kernels.split_units(
                text, begins, ends, self.rules, self.vocabulary, self.scores, scratch, *out
            ),
            len(begins),
            int(sizes.sum()) + len(begins),  # a token for each byte, and one for the replacement before it
        )
