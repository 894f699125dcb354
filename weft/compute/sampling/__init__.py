"""From logits to tokens: penalties and limits, probabilities, draws, log-probabilities."""
