"""Looking before training: what an example becomes, what a data set is like, on a terminal, a page or in a notebook."""
