"""Kernels that Triton compiles for a CUDA device. Import nothing of weft."""
