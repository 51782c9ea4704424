"""Access to this project's servers and pages: for its owner alone, by a password or a one-time link."""
