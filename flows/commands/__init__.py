"""A file for each command of `trainyard` that is no stage, no flow and no server."""
