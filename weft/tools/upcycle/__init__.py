"""From a dense checkpoint to a mixture of experts whose answers are the dense model's. No scheduler, no server."""
