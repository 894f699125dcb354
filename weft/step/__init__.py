"""The records of one step: what every rank runs, what comes back, and how a request wants to be sampled. No torch."""
