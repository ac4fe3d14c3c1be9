"""Self-contained HTML pages: escaped text, elements, charts and documents with marked spans.

This room does not depend on question answering, numpy or Arrow. A page needs no script, no network and no other file.
"""
