"""What grows, a module each: `at(steps, size)` takes the steps that depend on it in a new project."""
