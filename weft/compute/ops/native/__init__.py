"""Operations of the C++ step library, and the memory that its weights lie in."""
