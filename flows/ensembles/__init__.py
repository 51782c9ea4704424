"""Ensembles of trained members: chosen on validation, known by a digest, registered."""
