"""Commands that look at layouts and models."""
