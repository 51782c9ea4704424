"""Input from other people made harmless: text, files, YAML; and secrets masked wherever they are quoted."""
