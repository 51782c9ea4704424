"""What happens, in which order: stages, tracking, orchestration."""
