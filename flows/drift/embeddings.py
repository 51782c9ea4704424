"""What the champion makes of images: the probabilities that it serves, and the embeddings inside its networks.

Both come from the very programs that are served. The members in models/<dataset>/ may be newer than the champion, and
a second output would be missing from all champions that are registered already.
"""

from typing import Any

import numpy as np
import torch

from flows.models.served_ensemble import BATCH, ServedEnsemble


class Tap(torch.fx.Interpreter):
    """Runs an exported network, and keeps what goes into its last linear layer: its embedding of the images."""

    def __init__(self, program: torch.fx.GraphModule) -> None:
        super().__init__(program)
        linear = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
        # Test-time views pass through the same layer one after another. The first one is the image as it is.
        self.last = next((node for node in linear if node.args[1] is linear[-1].args[1]), None)
        self.embedding = torch.empty(0)

    def run_node(self, node: torch.fx.Node) -> Any:
        if node is self.last:
            self.embedding = self.env[node.args[0]].flatten(1)
        return super().run_node(node)


@torch.inference_mode()
def look(champion: ServedEnsemble, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The champion's probabilities, N×classes, and its embeddings, N×features, both float32.

    Embeddings are those of the first network of each kind, side by side: networks of one kind differ in their seed.

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
