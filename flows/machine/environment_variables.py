"""The environment of this process and its children: no telemetry, and no proxy for servers of this machine."""

import os

# Turn off telemetry. Set before the tools are imported; a value that the user set wins.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "true",
}

# Never reached through a proxy, which would look for our servers on its own machine.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def set_variables() -> None:
    """Sets the variables for this process and its children; values that the user set win."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not names_proxy():
        return  # on macOS a `no_proxy` alone would hide the system's own proxy
    # Lower case wins in urllib and what is built on it; some libraries know only one of the two.
    hosts = [host.strip() for host in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")]
    if "*" not in hosts:
        hosts = [*filter(None, hosts), *(host for host in LOOPBACK if host not in hosts)]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def names_proxy() -> bool:
    """Whether the environment names a proxy."""
    return any(value and name.lower() in PROXIES for name, value in os.environ.items())
