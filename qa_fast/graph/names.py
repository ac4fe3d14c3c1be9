"""Names of a graph's inputs and outputs, in a module that does not import Keras."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")
