"""One stage at a time per GPU, over all flows that use one Prefect server: a global concurrency limit for each GPU.

A limit is that of one GPU of this machine, so whoever holds its slot knows which GPU is theirs. It is strict: Prefect
takes a limit that does not exist for no limit.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flows.machine import hardware
from flows.project.errors import UnavailableError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Seconds after which the slots of a process that is gone are free again.
LEASE = 60
LOCKED = 423  # HTTP's status where a slot is taken
INTERVAL = 1.0  # seconds between two looks at whether a GPU is free; what Prefect advises is up to 30


def name(gpu: str) -> str:
    return f"gpu-{socket.gethostname()}-{gpu}"


def create(client: "SyncPrefectClient") -> list[str]:
    """Makes a limit of one slot for each GPU that has none; returns the GPUs, as `hardware.visible_gpus` does."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists

    found = hardware.visible_gpus()
    for gpu in found:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name(gpu), limit=1))
    return found


@contextlib.contextmanager
def hold(count: int, closed: threading.Event, say: Callable[[str], None]) -> Iterator[list[str]]:
    """Waits until `count` GPUs are free, and holds them. Yields them, or none where `closed` was set meanwhile.

    All are taken at once: nobody waits for a second GPU while holding the first.

    Raises:
        UnavailableError: the server has no such limit.
    """
    if not count:
        yield []
        return
    from prefect.client.orchestration import get_client

    with contextlib.ExitStack() as held:
        taken: list[str] = []
        waits = False
        with get_client(sync_client=True) as client:
            while not closed.is_set():
                free = [gpu for gpu in hardware.visible_gpus() if is_free(client, gpu)]
                if len(free) >= count and take(held, free[:count]):
                    taken = free[:count]
                    break
                if not waits:
                    waits = True
                    say("waits for a GPU: other flows have them")
                closed.wait(INTERVAL)
        yield taken


def is_free(client: "SyncPrefectClient", gpu: str) -> bool:
    from prefect.exceptions import ObjectNotFound

    try:
        limit = client.read_global_concurrency_limit_by_name(name(gpu))
    except ObjectNotFound:
        raise UnavailableError(f"Prefect's server has no concurrency limit {name(gpu)}: start again") from None
    return limit.active_slots < limit.limit


def take(held: contextlib.ExitStack, gpus: list[str]) -> bool:
    """Takes the slots of all these GPUs or of none, as Prefect's server does; False where somebody was quicker."""
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    # Without retries: Prefect's would wait for these GPUs while others are free. A training goes on though the server
    # is away when the lease is to be renewed.
    slots = concurrency(
        [name(gpu) for gpu in gpus], strict=True, max_retries=0, lease_duration=LEASE,
        raise_on_lease_renewal_failure=False,
    )  # fmt: skip
    try:
        held.enter_context(slots)
    except ConcurrencySlotAcquisitionError as error:
        if getattr(getattr(error.__cause__, "response", None), "status_code", None) != LOCKED:
            raise
        return False
    return True
