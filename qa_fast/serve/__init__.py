"""Answers over HTTP: the Hub's question-answering API and a page to ask in."""
