"""Plans and results of a step, sampling parameters: the records between engine and ranks. Pure."""
