"""Names of a graph's inputs and outputs; here, since who reads a graph needs no Keras."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")
