"""Takes Arrow tables of examples and an encoder; gives model inputs as flat arrays: cut into windows and labelled."""
