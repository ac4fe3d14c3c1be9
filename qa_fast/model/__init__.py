from qa_fast.model.config import EncoderConfig, check_length, read_encoder_config
from qa_fast.model.dropout import dropout_key
from qa_fast.model.encoder import SpanModel

__all__ = ["EncoderConfig", "SpanModel", "check_length", "dropout_key", "read_encoder_config"]
