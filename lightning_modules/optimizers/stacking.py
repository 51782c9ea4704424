"""One optimizer for stacked networks."""

from torch import optim

from lightning_modules.optimizers.building import build

# Optimizers whose update of one weight depends on other weights of the same tensor.
NOT_ELEMENTWISE = ("adafactor", "muon")


def build_stacked(settings: list[dict], groups: list[dict]) -> optim.Optimizer:
    """Builds one optimizer for stacked networks. It updates each network as if it were alone.

    Args:
        settings: the `optimizer` of each network's recipe; they may differ in lr and weight_decay.
        groups: of stacked parameters, see `networks.groups`: the first dimension of each is over the networks.
    """
    if all(given == settings[0] for given in settings) and settings[0]["name"] not in NOT_ELEMENTWISE:
        return build(settings[0], groups)
    parameters = [parameter for group in groups for parameter in group["params"]]
    networks = [
        [group | {"params": [parameter.detach()[number] for parameter in group["params"]]} for group in groups]
        for number in range(len(settings))
    ]
    views = [[view for group in network for view in group["params"]] for network in networks]
    optimizer = build(settings[0], networks[0])
    for given, network in zip(settings[1:], networks[1:]):
        for own in build(given, network).param_groups:
            optimizer.add_param_group(own)

    # Views share memory with the stacked weights at all times, and with their gradients only during a step.
    def share_gradients(*_: object) -> None:
        for number, own in enumerate(views):
            for view, parameter in zip(own, parameters):
                view.grad = None if parameter.grad is None else parameter.grad[number]

    def drop_gradients(*_: object) -> None:
        for parameter in parameters:
            parameter.grad = None

    optimizer.register_step_pre_hook(share_gradients)
    optimizer.register_step_post_hook(drop_gradients)
    return optimizer
