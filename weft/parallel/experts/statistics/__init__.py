"""Expert loads: arrays, the balance metric, and recording."""
