"""DVC's graph: which stages are stale, how one stage runs, and the working copies in which it runs."""
