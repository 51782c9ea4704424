"""A file for each command of `trainyard` that is no stage and no flow."""
