"""Operations of CUDA devices: Triton's kernels around plain torch."""
