"""Step programs: a decoder's operations recorded once and replayed by C++ for every step. See docs/architecture.md."""
