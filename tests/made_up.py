"""Hypothesis strategies of texts that make tokenizers stumble, shared by the tests of exactness."""

from hypothesis import strategies as st

PIECES = [
    "harbour", "Ane Skou", "1874", "7th", " ", "  ", "\t", "\r\n", "\n", "\u00a0", "\u3000", ".", ",", "...", "'", "'s",
    "don't", "--", "(", "südlich", "cafe\u0301", "n\u0303", "ﬁ", "½", "ß", "İ",
    "маяк", "港口", "灯塔。", "🚢", "👩‍🚀", "🇩🇰",
    "\u200b", "\u200d", "\ufeff", "\u0300", "\x00", "\x0b", "\x1c", "\x7f", "\x85", "\u2028", "[SEP]", "[CLS]", "</s>",
    "<s>", "▁", "Ġ", "x" * 120, "한국어", "ไทย", "עברית", "≮", "［SEP］",
]  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=30).map("".join)
