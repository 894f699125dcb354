"""A rank's process: its main, its loop, and its side of a step, from the plan to sampled ids."""
