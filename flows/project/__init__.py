"""The project's own folder: its paths, files that are written atomically, git, errors."""
