"""A Keras model with compile, fit, evaluate, predict and save. `qa-fast train` is faster and can be resumed."""
