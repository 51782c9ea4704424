"""What a user would pick instead, each written as that user's own script."""
