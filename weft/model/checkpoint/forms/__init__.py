"""Forms in which the same model is stored: other names, fused or left out tensors, in the words of one form."""
