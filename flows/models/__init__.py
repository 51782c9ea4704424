"""Trained members and their ensemble: loaded, measured, exported, served."""
