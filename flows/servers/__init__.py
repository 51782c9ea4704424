"""Servers that this project brings up, Prefect's, PostgreSQL's and S3's among them, and how they end."""
