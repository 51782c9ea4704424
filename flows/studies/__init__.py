"""Studies: what varies is compared fairly, tuned under an equal budget, paired by seed."""
