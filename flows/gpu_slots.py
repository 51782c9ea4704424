"""One stage at a time per GPU, over all flows that use one Prefect server: slots of a global concurrency limit.

The limit is this machine's, since its GPUs are. It is strict: Prefect takes a limit that does not exist for no limit.
"""

import contextlib
import socket
from collections.abc import Iterator

from flows import hardware

# Seconds after which the slots of a process that is gone are free again.
LEASE = 60


def name() -> str:
    return f"gpu-{socket.gethostname()}"


def create(client, *, anew: bool = False) -> int:
    """Makes the limit where there is none, of a slot per GPU; `anew` also where it has another number of slots.
    Returns the number of GPUs; without any there is no limit to make."""
    from prefect.exceptions import ObjectNotFound

    count = hardware.gpus()
    if not count:
        return 0
    try:
        missing = client.read_global_concurrency_limit_by_name(name()).limit != count and anew
    except ObjectNotFound:
        missing = True
    if missing:
        client.upsert_global_concurrency_limit_by_name(name(), count)
    return count


@contextlib.contextmanager
def hold(count: int) -> Iterator[None]:
    """Waits for `count` slots, and holds them.

    Raises:
        ConcurrencySlotAcquisitionError: the server has no such limit.
    """
    if not count:
        yield
        return
    from prefect.concurrency.sync import concurrency

    # A training goes on though the server is away when the lease is to be renewed.
    with concurrency(name(), occupy=count, strict=True, lease_duration=LEASE, raise_on_lease_renewal_failure=False):
        yield
