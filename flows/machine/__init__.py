"""This machine: cores and GPUs, ports, processes that leave nothing behind, and how a command ends."""
