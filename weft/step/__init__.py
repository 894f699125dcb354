"""The records of one step: the plan of all ranks, a rank's part of it, its results, and sampling parameters. No torch."""
