"""Measures this machine's products with weft's own kernels, and keeps what was measured. Layouts are not known here."""
