"""One rank of a step: from the plan to tensors, through the decoder, to sampled ids."""
