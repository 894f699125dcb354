"""Operations, kernels, collectives, sampling."""
