"""Files of placements and of recorded loads."""
