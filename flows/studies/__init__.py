"""Studies: what varies, tuned and trained fairly, and what can be said of it."""
