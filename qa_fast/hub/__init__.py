"""Takes the records of training and evaluation in a model folder; writes its model card and uploads it to the Hub."""
