"""Layers of 8 bits for processors without vectors: kernels in C (`runtime/c/micro.h`), a loop nest a kind."""
