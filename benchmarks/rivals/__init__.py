"""What a user would use instead of this project, each as a script of that user."""
