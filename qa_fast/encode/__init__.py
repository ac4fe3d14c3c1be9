"""Take texts and a tokenizer; return token ids and character offsets."""

from qa_fast.encode.encoded import EncodedTexts
from qa_fast.encode.encoder import TextEncoder, load_encoder
from qa_fast.encode.template import PairTemplate

__all__ = ["EncodedTexts", "PairTemplate", "TextEncoder", "load_encoder"]
