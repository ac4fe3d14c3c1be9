"""Shows examples, windows, tokens, labels and statistics of data: on a terminal, as a page, or in a notebook."""
