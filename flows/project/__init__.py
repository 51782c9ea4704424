"""The project's own folder: where things lie, files that are written whole, git, errors."""
