"""params.yaml as frozen, typed models."""
