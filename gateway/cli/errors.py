"""`gateway errors`: the last frames that the running gateway could not read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.admin.errors import LAST_MAX, RejectedFrameView
from gateway.cli.ask import client_of
from gateway.cli.output import DEFAULT_CONFIG, Config, Json, data, print_json, say

app = typer.Typer(
    name="errors",
    help="What terminals sent that could not be read.",
    no_args_is_help=True,
)


@app.callback()
def errors() -> None:
    """What terminals sent that could not be read."""


@app.command()
def show(
    last: Annotated[
        int, typer.Option("--last", min=1, max=LAST_MAX, help="At most so many, the newest.")
    ] = 20,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """The last frames that could not be read: when, from where, what is wrong and at which byte.

    Card data is not shown, and was not kept: what might be any stands as **. Frames are kept in
    memory, as many as limits.rejected_frames_max says, and are gone at a restart.
    """
    found: dict[str, Any] = client_of(config).run("errors", "frames", {"last": last})
    if json:
        print_json(found)
        return
    for frame in reversed(found["frames"]):
        _print(frame)
    shown, count = len(found["frames"]), found["count"]
    say(f"{shown} of {count} since the start" if count else "every frame could be read")


def _print(frame: RejectedFrameView) -> None:
    out = data()
    dialect = f" as {frame['dialect']}" if frame["dialect"] else ""
    head = f"{frame['at']}  {frame['listener']}  {frame['address']}  {frame['length']} bytes"
    out.print(f"{head}{dialect}", markup=False)
    place = f"field {frame['field']}, byte {frame['position']}: " if frame["field"] else ""
    out.print(f"  {place}{frame['reason']}", markup=False)
    told = (("MTI", frame["mti"]), ("STAN", frame["stan"]))
    known = [f"{name} {value}" for name, value in told if value]
    known += [f"DE{number} {value}" for number, value in frame["fields"].items()]
    if known:
        out.print(f"  {', '.join(known)}", markup=False)
    for line in frame["dump"]:
        out.print(f"  {line}", markup=False)
    out.print()
