"""From published archives and people's own images to arrays, labels and splits."""
