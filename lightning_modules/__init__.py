"""What is learned: networks, their training and their combination.

Knows torch, lightning, safetensors and numpy; nothing else.
"""
