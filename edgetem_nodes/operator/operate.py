"""`edgetem operate`: change a running experiment from another terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

if TYPE_CHECKING:
    from edgetem_nodes.operator.remote import Remote

app = typer.Typer(no_args_is_help=True, help="Change a running experiment: pause it, forbid regions, approve batches, ...")

NANOMETRE = 1e-9
"""[m]."""
Output = Annotated[Path | None, typer.Option("--output", "-o", help="folder of the running experiment; default: the only one "
                                                                    "that runs in runs/, or that of ROS_DOMAIN_ID")]
Namespace = Annotated[str, typer.Option(help="namespace of its nodes, where ROS_DOMAIN_ID says which graph is meant")]
Name = Annotated[str, typer.Argument(help="name of the region")]
Corners = Annotated[list[float], typer.Argument(metavar="Y X Y X [Y X ...]", help="two opposite corners of a rectangle, or "
                                                "three and more of a polygon, in nm")]
Pairs = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="parameters as in the configuration")]
NUMBERS = {"ignore_unknown_options": True}
"""So that a negative number is no option."""


@contextmanager
def _experiment(output: Path | None, namespace: str) -> Iterator[Remote]:
    """The running experiment; errors end the command with a message and exit code 1."""
    from edgetem_nodes.operator.running import NotRunningError, find_running
    try:
        running = find_running(output, namespace)
    except NotRunningError as error:
        _fail(error)
    from edgetem_nodes.operator.remote import Remote, RemoteError
    try:
        with Remote(running) as experiment:
            yield experiment
    except RemoteError as error:
        _fail(error)


def _fail(message: object) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(1)


def _carry_out(output: Path | None, namespace: str, request: dict[str, Any]) -> None:
    with _experiment(output, namespace) as experiment:
        _ask(experiment, request)


def _ask(experiment: Remote, request: dict[str, Any]) -> None:
    """Send a request and say what came of it."""
    decision = experiment.carried_out(experiment.ask(request), lambda: print(
        "accepted, to be carried out once the acquisition under way is measured ...", flush=True))
    print(f"decision {decision.index}, {decision.action}: {decision.reason}")
    if "refused" in json.loads(decision.request):
        raise typer.Exit(1)


def _values(pairs: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE` texts as a mapping; values are YAML scalars or lists."""
    values = {}
    for text in pairs or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            _fail(f"{text!r} is not KEY=VALUE, e.g. batch_points=10")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            _fail(f"{text!r}: {value!r} is not a YAML value")
    return values


def _vertices(corners: list[float]) -> list[list[float]]:
    """Corners in nm as vertices (y, x) [m]; two of them span a rectangle."""
    if len(corners) % 2 or len(corners) < 4:
        _fail(f"{len(corners)} numbers are no corners: give Y X of two opposite ones, or of three and more")
    points = [[y * NANOMETRE, x * NANOMETRE] for y, x in zip(corners[::2], corners[1::2], strict=True)]
    if len(points) == 2:
        (y0, x0), (y1, x1) = points
        return [[y0, x0], [y0, x1], [y1, x1], [y1, x0]]
    return points


@app.command()
def status(output: Output = None, namespace: Namespace = "") -> None:
    """Say how the experiment stands."""
    with _experiment(output, namespace) as experiment:
        for line in _lines(experiment.state()):
            print(line)


def _lines(state: Any) -> list[str]:
    decision, unit = state.decision, f" [{state.scalar_unit}]" if state.scalar_unit else ""
    count = len(decision.candidates)
    remark = {"waiting": f": decision {decision.index} proposes {count} positions; approve or reject them",
              "paused": ": 'edgetem operate resume' goes on"}
    parameters = json.loads(state.acquisition)
    lines = [f"state        {state.state}{remark.get(state.state, '')}",
             f"decision     {decision.index}, {decision.action}: {decision.reason}",
             f"so far       {decision.points} points, {decision.dose:.3g} electrons, {decision.beam_time:.2f} s of beam time"]
    (y, x), (dy, dx), (rows, columns) = ([float(v) for v in part] for part in (
        state.field.origin, state.field.step, state.field.shape))
    last = y + (rows - 1) * dy, x + (columns - 1) * dx
    (y0, x0), (y1, x1) = ((round(v / NANOMETRE, 4) for v in corner) for corner in ((y, x), last))
    lines.append(f"field        {rows:.0f} x {columns:.0f} positions, (y, x) from ({y0:g}, {x0:g}) to ({y1:g}, {x1:g}) nm")
    if state.scalar_name:
        lines.append(f"scalar       {state.scalar_name}{unit}, best {decision.best_value:.4g}, standard deviation of the map "
                     f"{decision.mean_standard_deviation:.3g} mean, {decision.max_standard_deviation:.3g} largest")
    lines.append("acquisition  " + " ".join(f"{name}={value}" for name, value in parameters.items()))
    lines.append(f"approval     {'every batch waits for it' if state.approve_batches else 'not asked for'}")
    for region in map(json.loads, state.regions):
        corners = ", ".join(f"({y / NANOMETRE:.4g}, {x / NANOMETRE:.4g})" for y, x in region["vertices"])
        lines.append(f"region       {region['name']}: {region['kind']} {corners} nm")
    lines += [f"waits        {request}" for request in state.requests]
    return lines + [f"watchdog     {watchdog}" for watchdog in decision.watchdogs]


@app.command()
def pause(output: Output = None, namespace: Namespace = "") -> None:
    """Pause once the acquisition under way has ended; the beam stays blanked, and no budget runs."""
    _carry_out(output, namespace, {"kind": "pause_experiment"})


@app.command()
def resume(output: Output = None, namespace: Namespace = "") -> None:
    """Go on with a paused experiment."""
    _carry_out(output, namespace, {"kind": "resume_experiment"})


@app.command(context_settings=NUMBERS)
def forbid(name: Name, corners: Corners, output: Output = None, namespace: Namespace = "") -> None:
    """Keep the probe out of a region."""
    _carry_out(output, namespace, {"kind": "set_region", "name": name, "region": "forbid", "vertices": _vertices(corners)})


@app.command(context_settings=NUMBERS)
def add(name: Name, corners: Corners, output: Output = None, namespace: Namespace = "") -> None:
    """Let the probe into a region, whatever forbade it, and measure there next."""
    _carry_out(output, namespace, {"kind": "set_region", "name": name, "region": "add", "vertices": _vertices(corners)})


@app.command()
def remove(name: Name, output: Output = None, namespace: Namespace = "") -> None:
    """Take a region back."""
    _carry_out(output, namespace, {"kind": "remove_region", "name": name})


@app.command()
def acquisition(changes: Pairs = None, output: Output = None, namespace: Namespace = "") -> None:
    """Change what the next positions are chosen for, e.g. acquisition_function=maximum_variance batch_points=10."""
    _carry_out(output, namespace, {"kind": "change_acquisition", "changes": _values(changes)})


@app.command()
def scalarizer(name: Annotated[str, typer.Argument(help="scalarizer, or KEY=VALUE to keep the present one")],
               settings: Pairs = None, output: Output = None, namespace: Namespace = "") -> None:
    """Change what frames become, e.g. eels_edge eels_edge.signal_eV=[930,1010]; all data is read anew."""
    if "=" in name:
        name, settings = "", [name, *(settings or [])]
    _carry_out(output, namespace, {"kind": "change_scalarizer", "scalarizer": name, "settings": _values(settings)})


@app.command()
def approve(everything: Annotated[bool, typer.Option("--all", help="this batch and every later one")] = False,
            output: Output = None, namespace: Namespace = "") -> None:
    """Measure the batch that waits for approval."""
    with _experiment(output, namespace) as experiment:
        state = experiment.state()
        if state.state != "waiting" and not everything:
            _fail("no batch waits for approval")
        kind = "approve_all" if everything else "approve_batch"
        _ask(experiment, {"kind": kind, "decision": int(state.decision.index)})


@app.command()
def reject(output: Output = None, namespace: Namespace = "") -> None:
    """Never propose the positions of the batch that waits for approval again, and propose others."""
    with _experiment(output, namespace) as experiment:
        state = experiment.state()
        if state.state != "waiting":
            _fail("no batch waits for approval")
        _ask(experiment, {"kind": "reject_batch", "decision": int(state.decision.index)})


@app.command()
def ask(output: Output = None, namespace: Namespace = "") -> None:
    """Let every batch wait for approval from now on."""
    _carry_out(output, namespace, {"kind": "ask_approval"})


@app.command()
def stop(output: Output = None, namespace: Namespace = "") -> None:
    """End the experiment now; what was measured is kept, and the report is written."""
    with _experiment(output, namespace) as experiment:
        experiment.stop()
        print("the experiment is stopping")
