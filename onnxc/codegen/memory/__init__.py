"""Stage 4: the straight list of calls, and where each tensor lies."""
