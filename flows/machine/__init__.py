"""This machine: cores and GPUs, ports, and processes that leave nothing behind."""
