"""The networks, each built for the shape of the images. Input: N×C×H×W floats. Output: N×classes logits."""

from lightning_modules.networks.building import NETWORKS, build, groups, prepare

__all__ = ["NETWORKS", "build", "groups", "prepare"]
