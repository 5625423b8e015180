"""Weights files on disk: their headers, their shards, and a writer whose bytes depend on its input alone."""
