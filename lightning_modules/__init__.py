"""What is learned: networks, their training and their combination.

Knows torch, lightning, torchmetrics, safetensors and numpy; nothing else.
"""
