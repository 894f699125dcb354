"""Models that are fetched: from a model hub, or the small model that comes as a Python package."""
