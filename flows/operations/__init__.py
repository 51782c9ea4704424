"""What runs until it is ended: servers with their pages, workers, and the deployments that they run."""
