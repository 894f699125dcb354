"""The records of one step: the plan, a rank's part of it, results, and sampling parameters. No torch."""
