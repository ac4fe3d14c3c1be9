"""Takes the spans of a model and the gold answers of a split; returns the official scores and files of predictions."""
