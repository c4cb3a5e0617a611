"""Stage 3: each product becomes a kernel call, everything else an operator of Relax."""
