"""Self-contained HTML pages: escaped text, elements, charts and documents with marked spans.

This room knows nothing of question answering, numpy or Arrow. A page needs no script, no network and no other file.
"""
