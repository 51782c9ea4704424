"""What somebody else made, rendered harmless: text, files, YAML; and secrets, masked wherever they are quoted."""
