"""Tables of what was measured, for terminals and plots."""
