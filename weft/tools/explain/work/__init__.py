"""What every rank multiplies and reads in a step, counted without torch. No rate is known here."""
