"""Turns a source of examples into a folder of shards, block by block, with threads or with Ray."""
