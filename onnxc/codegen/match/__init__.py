"""Stage 2: convolutions and products are found, each with what its kernel can take in."""
