"""Scripts that check or rewrite this repository."""
