"""The race of optimizers over surfaces that one can look at."""
