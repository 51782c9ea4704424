"""A message to people when a flow has ended, through the notification block that a Prefect variable names.

Prefect has blocks for Slack, Microsoft Teams, e-mail, webhooks and more; one is made on its page Blocks. The variable
`trainyard_notify` then says which: the block's type and name, such as slack-webhook/team. Without it nothing is sent.
"""

from collections.abc import Callable
from typing import Any

from flows.project.errors import our_mistake
from flows.untrusted.masking import sentence

VARIABLE = "trainyard_notify"


def notify(subject: str, body: str, log: Callable[[str], None]) -> bool:
    """Sends it, and returns whether that was done. What goes wrong is logged: a message is never worth a flow."""
    from prefect.blocks.core import Block
    from prefect.variables import Variable

    name: Any = None  # Prefect types this, and the block, as what may be a coroutine, which here they are not
    try:
        name = Variable.get(VARIABLE, default=None)
        if not name:
            return False
        # Blocks of a type that comes with Prefect are known once its module is imported.
        import prefect.blocks.notifications  # noqa: F401

        block: Any = Block.load(name)
        block.notify(body, subject)
    except Exception as error:  # a server that is away, an unknown block, a web page that says no
        if our_mistake(error):
            raise
        reason = sentence(error, 200)
        log(f"the notification{f' by {name}' if name else ''} could not be sent: {reason}")
        return False
    return True
