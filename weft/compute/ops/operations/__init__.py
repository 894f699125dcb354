"""Where each operation is declared: its number, its operands, its kernel, what layers call, and the library's call."""
