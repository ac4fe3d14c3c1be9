"""qa-fast as a part of other frameworks. Each module needs an extra of its own."""
