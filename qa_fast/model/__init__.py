"""The encoder: `config` and `families` say what it is made of (without a framework), the other files compute it."""
