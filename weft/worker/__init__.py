"""One rank's side of a step: from the plan to tensors, through the decoder, to sampled ids. Knows no scheduler."""
