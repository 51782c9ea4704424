"""Prefect's side: a plan in parallel, slots for cores and GPUs, Dask, deployments."""
