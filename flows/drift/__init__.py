"""Incoming images against those that the champion was made for."""
