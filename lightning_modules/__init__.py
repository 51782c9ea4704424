"""What is learned: networks, their training and their combination. Knows torch, lightning, torchmetrics and numpy; nothing else."""
