"""What keeps a network from overfitting: dropout, penalties, mixtures of images."""
