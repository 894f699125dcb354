"""The records of one step: the plan that every rank runs, its results, and sampling parameters. No torch."""
