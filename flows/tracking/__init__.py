"""MLflow, which no other room imports: its store, runs and registry, and loading registered models."""
