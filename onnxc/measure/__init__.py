"""Measuring models: differences, costs layer by layer, times, sensitivities. Nothing here draws."""
