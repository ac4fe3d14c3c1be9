"""Names of a graph's inputs and outputs, and versions of ONNX, in a module that imports neither Keras nor ONNX."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")
# The versions of ONNX's operations that a graph can be written for: LayerNormalization came with 17, and 21 is the
# newest that the oldest supported ONNX Runtime opens.
OPSETS = range(17, 22)
OPSET = 20  # the first with Gelu, which older graphs compose
