"""Operations in plain torch: the answer key of every other implementation, and the exact model's."""
