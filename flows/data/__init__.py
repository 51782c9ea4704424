"""Data: published archives and people's own images become arrays, labels and splits."""
