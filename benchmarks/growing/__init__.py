"""A module for each quantity that grows: `at(steps, size)` runs the steps that depend on it in a new project."""
