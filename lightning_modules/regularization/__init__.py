"""What keeps a network from overfitting: dropout, penalties, limits on weights and gradients, mixtures of images."""
