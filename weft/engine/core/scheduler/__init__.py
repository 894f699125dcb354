"""scheduler: which rows one attention-dp group runs in a step, and what their results mean."""
