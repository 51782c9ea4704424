"""`python -m benchmarks [NAME...]`: measures, prints a markdown table and writes .trainyard/benchmarks.json.

Each module that NAMES or MORE names has `measure() -> list[dict]`, a dict for each row of the table:

what               what is measured, against whom, under which conditions
ours, other        text: a median, with its unit and range
ratio              text: how many times as long the other one takes
accuracy           text: what ours and the other one reach
load               the share of the machine's CPU time that other processes took meanwhile, 0 to 1
goal, reached      text, and whether it was reached
measured           the numbers behind the row, for the JSON file

Keys that a row does not need may be missing.
"""

import importlib
import os
import platform
import tempfile
import time
import traceback
from pathlib import Path

import click

from flows.graph import site_cache
from flows.machine import hardware
from flows.project import file_io, git, paths

NAMES = ("data_path", "training", "replicas", "step", "logged_run", "share", "start", "memory", "pipeline", "gpu")
MORE = ("growth", "orchestration", "stacks", "studies")  # minutes more each, and nothing that every change would alter
# What decides how fast a processor multiplies, as people name it and as Linux does; and what keeps torch from using it.
FEATURES = {"avx2": "avx2", "avx512": "avx512f", "avx512_bf16": "avx512_bf16", "amx": "amx_bf16"}
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
COLUMNS = ("what", "ours", "other", "ratio", "accuracy", "load", "goal", "reached")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES + MORE))
def main(names: tuple[str, ...]) -> None:
    """Measure NAMES, by default all but growth, orchestration, stacks and studies: medians of up to five runs after a
    warm-up; for ratios both sides run in turn and are compared pair by pair."""
    # Benchmarks do not log to the user's own server.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    # DVC's default site cache is open to all users of the machine.
    folder = click.get_current_context().with_resource(tempfile.TemporaryDirectory(prefix="site-cache-"))
    os.environ.setdefault(site_cache.VARIABLE, folder)
    rows, seconds = [], {}
    found = conditions()
    for name in names or NAMES:
        click.echo(f"measuring {name}", err=True)
        start = time.monotonic()
        try:
            rows += importlib.import_module(f"benchmarks.{name}").measure()
        except Exception as error:  # keep the figures of the other benchmarks
            traceback.print_exc()
            rows.append({"what": name, "ours": f"failed: {' '.join(str(error).split())[:200]}"})
        seconds[name] = round(time.monotonic() - start, 1)
        file_io.write_json(
            paths.state_folder() / "benchmarks.json", {"conditions": found, "seconds": seconds, "rows": rows}
        )
    click.echo(f"| {' | '.join(COLUMNS)} |")
    click.echo(f"|{'---|' * len(COLUMNS)}")
    for row in rows:
        click.echo(f"| {' | '.join(cells(row))} |")
    click.echo("\n" + ", ".join(f"{name} {value}" for name, value in found.items()))
    click.echo("took " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()), err=True)
    if any(row["ours"].startswith("failed: ") for row in rows):
        raise SystemExit(1)


def cells(row: dict) -> list[str]:
    """The row's text in each of COLUMNS."""
    given = {key: value for key, value in row.items() if value is not None}
    if "load" in given:
        given["load"] = f"{given['load']:.0%}"
    if "reached" in given:
        given["reached"] = "yes" if given["reached"] else "no"
    return [given.get(column, "") for column in COLUMNS]


def conditions() -> dict:
    """The conditions that the figures depend on, beside the code."""
    import torch

    root = paths.root()
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "features": features(),
        "cores": hardware.cores(),
        "threads": hardware.cores(),  # each side uses all
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": (git.commit(root) or "none") + (" (changed)" if git.is_dirty(root) else ""),
    }


def processor() -> str:
    """The processor's name, from Linux."""
    return of_processor("model name") or platform.processor() or platform.machine()


def features() -> str:
    """The processor's instruction sets that matter most, and the variables that keep torch from using them."""
    flags = of_processor("flags").split()
    found = " ".join(name for name, flag in FEATURES.items() if flag in flags) or f"none of {' '.join(FEATURES)}"
    held = " ".join(f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name))
    return f"{found} (with {held})" if held else found


def of_processor(key: str) -> str:
    """A value of the first processor in Linux's /proc/cpuinfo; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == key), "")


if __name__ == "__main__":
    main()
