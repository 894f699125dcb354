"""What follows from the death of ranks: when others are started, and which requests run again, alone or not at all."""
