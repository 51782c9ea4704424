"""DVC's graph: what is stale, how one stage runs, and the working copies in which it does."""
