"""Tells Prefect's server of drift: the event `trainyard.drift`, which a deployment's trigger may answer by a run."""

import os

from flows.project.errors import InputError, UnavailableError, our_mistake
from flows.servers import prefect_server
from flows.untrusted.masking import sentence

EVENT = "trainyard.drift"


def resource(dataset: str) -> dict[str, str]:
    """What the event is about; a trigger's `match` names the same id."""
    return {"prefect.resource.id": f"trainyard.dataset.{dataset}", "prefect.resource.name": dataset}


def server() -> str:
    """The address of Prefect's API. Raises InputError where there is none."""
    prefect_server.configure()
    if address := os.environ.get("PREFECT_API_URL"):
        return address
    raise InputError(
        "--retrain tells Prefect's server of drift, and there is none: set PREFECT_API_URL to the API of a running "
        "one, such as http://127.0.0.1:4200/api"
    )


def emit(dataset: str, payload: dict) -> list[str]:
    """Sends the event, and returns the names of the automations that are to answer it.

    Raises:
        InputError: no server is named.
        UnavailableError: it does not take the event.
    """
    address = server()
    from prefect.client.orchestration import get_client
    from prefect.events import Event, EventTrigger, ResourceSpecification

    event = Event(event=EVENT, resource=resource(dataset), payload=payload)
    try:
        with get_client(sync_client=True) as client:
            # Not Prefect's emit_event: that hands the event to a thread, and a failure to its log.
            client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()
            automations = client.read_automations()
    except Exception as error:  # refused, not found, no answer, of another version: each in a way of its own
        if our_mistake(error):
            raise
        reason = sentence(error)
        raise UnavailableError(f"Prefect's server at {address} does not take the event {EVENT}: {reason}") from None
    return [
        automation.name
        for automation in automations
        if automation.enabled
        and isinstance(automation.trigger, EventTrigger)
        and EVENT in automation.trigger.expect
        and isinstance(automation.trigger.match, ResourceSpecification)
        and automation.trigger.match.matches(event.resource)
    ]
