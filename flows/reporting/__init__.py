"""Tables of results, for terminals and plots."""
