"""Structured and unstructured pruning. `groups` finds what is coupled, `score` rates it, `channels` removes it."""
