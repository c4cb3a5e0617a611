"""Stage 5: functions, program and weights as C, linked to a library."""
