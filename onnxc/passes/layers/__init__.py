"""Layers with a stored weight, as all passes see them: one view, their activations, their moments."""
