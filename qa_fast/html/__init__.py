"""Self-contained pages: markup that texts cannot become, elements, charts, documents with marked spans.

Knows nothing of question answering, numpy or Arrow; a page needs no script, no network and no other file.
"""
