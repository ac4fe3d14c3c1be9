"""qa-fast as a part of other frameworks; each file needs its own extra."""
