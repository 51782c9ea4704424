"""Servers that this project starts and ends: Prefect's, MLflow's, PostgreSQL and an S3 store."""
