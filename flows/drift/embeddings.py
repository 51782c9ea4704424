"""The champion's probabilities for images, and the embeddings inside its networks.

Both come from the exported programs that are served: the members in models/<dataset>/ may be newer than the champion,
and champions that are registered already have no second output for embeddings.
"""

from typing import Any

import numpy as np
import torch

from flows.models.served_ensemble import BATCH, ServedEnsemble


class Tap(torch.fx.Interpreter):
    """Runs an exported network and keeps the input of its last linear layer, the embedding of the images.

    Attributes:
        last: the node of that layer; None if the network has no linear layer.
        embedding: of the last run, N×features.
    """

    def __init__(self, program: torch.fx.GraphModule) -> None:
        super().__init__(program)
        linear = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
        # With test-time views the layer occurs once per view. The first view is the unchanged image.
        self.last = next((node for node in linear if node.args[1] is linear[-1].args[1]), None)
        self.embedding = torch.empty(0)

    def run_node(self, node: torch.fx.Node) -> Any:
        if node is self.last:
            self.embedding = self.env[node.args[0]].flatten(1)
        return super().run_node(node)


@torch.inference_mode()
def predict_and_embed(champion: ServedEnsemble, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The champion's probabilities, N×classes, and its embeddings, N×features, both float32.

    The embeddings are those of the first network of each program, concatenated: networks that share a program differ
    only in their seed.

    Args:
        images: uint8, N×H×W×C, of the champion's shape.
    """
    taps = {id(program): Tap(program) for program, _ in champion.networks}
    probabilities, embeddings = [], []
    for start in range(0, len(images), BATCH):
        given = torch.tensor(images[start : start + BATCH])
        outputs, inside = [], {}
        for program, state in champion.networks:
            tap = taps[id(program)]
            if id(program) in inside or tap.last is None:
                outputs.append(program(state, given))
            else:
                outputs.append(tap.run(state, given))
                inside[id(program)] = tap.embedding
        probabilities.append(champion.vote(torch.stack(outputs)).exp().numpy())
        embeddings.append(torch.cat([*inside.values(), torch.empty(len(given), 0)], 1).numpy())
    return np.concatenate(probabilities), np.concatenate(embeddings)
