"""A model in the habits of Keras: compile, fit, evaluate, predict, save; `qa-fast train` is the fast, resumable way."""
