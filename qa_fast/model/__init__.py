"""The encoder: `config` and `families` describe it without a framework, the other modules compute it."""
