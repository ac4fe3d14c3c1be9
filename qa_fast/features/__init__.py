"""Take Arrow tables of examples and an encoder; return windowed and labelled model inputs as flat arrays."""
