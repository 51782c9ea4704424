"""MLflow, which no other room imports: its store, runs, registry, and loading what is registered."""
