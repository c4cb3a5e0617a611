"""Convolutions as the blocks of compact networks, begun from the old weights; `train.distill` follows."""
