"""Stage 1: a model becomes static: functions opened, shapes fixed, constants folded."""
