"""The command `edgetem`."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from edgetem_nodes import __version__
from edgetem_nodes.graph.environment import prepare
from edgetem_nodes.operator.atoms_command import atoms
from edgetem_nodes.operator.operate import app as operate
from edgetem_nodes.operator.train import app as train

prepare()

app = typer.Typer(name="edgetem", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="An autonomous scanning transmission electron microscope as a ROS 2 node graph.")

app.add_typer(operate, name="operate")
app.add_typer(train, name="train")
app.command()(atoms)

Configured = Annotated[Path, typer.Argument(help="configuration: a file, or the name of a shipped one")]
Setting = Annotated[list[str], typer.Option("--set", metavar="NODE.KEY=VALUE", help="override a parameter, e.g. "
                                            "--set planner.point_budget=100; '/**.seed=3' for all nodes that have it")]


def fail(message: object) -> None:
    """End with a message for people and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


def overrides(settings: list[str]) -> dict[str, Any]:
    """`NODE.KEY=VALUE` texts as a mapping; values are YAML scalars or lists."""
    result = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            fail(f"{text!r} is not NODE.KEY=VALUE, e.g. planner.point_budget=100")
        try:
            result[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            fail(f"--set {text!r}: {value!r} is not a YAML value")
    return result


@app.command()
def run(configuration: Annotated[Path | None, typer.Argument(help="configuration: a file, or the name of a shipped one")]
        = None,
        output: Annotated[Path | None, typer.Option(help="folder for the results; default runs/<name>-<time>")] = None,
        seed: Annotated[int | None, typer.Option(help="seed of everything random")] = None,
        seeds: Annotated[int, typer.Option(min=0, help="repeat with this many seeds, from 0, and write seeds.json")] = 0,
        resume: Annotated[Path | None, typer.Option(help="go on with the experiment in this folder")] = None,
        namespace: Annotated[str, typer.Option(help="namespace of all nodes")] = "",
        log_level: Annotated[str, typer.Option(help="severity from which nodes log")] = "warn",
        settings: Setting = []) -> None:  # noqa: B006  (typer reads the default, nobody changes it)
    """Run an autonomous experiment and leave archive, bag, summary and report in a folder."""
    from edgetem_nodes.graph.configuration import ConfigurationError
    from edgetem_nodes.operator.check import CheckError
    from edgetem_nodes.operator.experiment import CONFIGURATION, FolderError
    from edgetem_nodes.operator.run import Run, execute, load, output_folder
    from edgetem_nodes.operator.seeds import repeat
    if (resume is None) == (configuration is None):
        fail("give either a configuration or --resume FOLDER")
    if resume is not None and seeds:
        fail("--resume goes on with one experiment: it cannot be combined with --seeds")
    if log_level not in ("debug", "info", "warn", "error", "fatal"):
        fail(f"--log-level {log_level!r} is not one of debug, info, warn, error, fatal")
    if not re.fullmatch(r"/?([A-Za-z_]\w*(/[A-Za-z_]\w*)*)?", namespace):
        fail(f"--namespace {namespace!r} is not a ROS name: letters, digits and underscores, parts separated by '/'")
    try:
        changed = overrides(settings) | ({} if seed is None else {"/**.seed": seed})
        checked = load(configuration or resume / CONFIGURATION, changed)
        folder = (resume or output or output_folder(checked)).resolve()
        if seeds:
            raise typer.Exit(repeat(checked.source, changed, folder, range(seeds), log_level))
        raise typer.Exit(execute(Run(checked, folder, resume is not None, namespace, log_level)))
    except (ConfigurationError, CheckError, FolderError) as error:
        fail(error)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def launch(context: typer.Context, file: Annotated[str, typer.Argument(help="launch file, or the name of a shipped one")],
           show_args: Annotated[bool, typer.Option("--show-args", "-s", help="show the launch file's arguments")]
           = False) -> None:
    """Run a launch file: NAME:=VALUE arguments; with the genuine launcher where it is installed, else with edgetem's."""
    from edgetem_nodes.graph.environment import share_directory
    from edgetem_nodes.graph.launching import LaunchFileError, parse_arguments, run_launch, show_arguments
    from edgetem_nodes.operator.run import after_launch
    path = Path(file)
    if not path.exists():
        path = share_directory() / "launch" / file
    if not path.exists():
        fail(f"launch file {file} is neither here nor among the shipped ones: "
             + ", ".join(sorted(p.name for p in (share_directory() / "launch").glob("*.launch.py"))))
    try:
        if show_args:
            show_arguments(path)
            return
        arguments = parse_arguments(context.args)
        earlier = set(Path("runs").glob("*"))
        code = run_launch(path, arguments)
        folders = [Path(arguments["output"])] if arguments.get("output") else sorted(set(Path("runs").glob("*")) - earlier)
        for folder in folders[:1]:
            code = after_launch(folder, code) if folder.is_dir() else code
        raise typer.Exit(code)
    except LaunchFileError as error:
        fail(error)


@app.command()
def replay(bag: Annotated[Path, typer.Argument(help="bag, or the folder of an experiment")],
           log_level: Annotated[str, typer.Option(help="severity from which nodes log")] = "warn") -> None:
    """Run the real planner from a bag and say whether every decision came out the same."""
    import os

    from edgetem_nodes.graph.environment import share_directory
    from edgetem_nodes.graph.isolation import isolate
    from edgetem_nodes.graph.launching import run_launch
    from edgetem_nodes.provenance.metadata import BagError
    from edgetem_nodes.provenance.reading import bag_folder
    try:
        folder = bag_folder(bag).resolve()
    except BagError as error:
        fail(error)
    if "ROS_DOMAIN_ID" not in os.environ:
        isolate()
    raise typer.Exit(run_launch(share_directory() / "launch" / "replay.launch.py",
                                {"bag": str(folder), "log_level": log_level}, quiet=log_level not in ("debug", "info")))


@app.command()
def check(configuration: Configured, settings: Setting = []) -> None:  # noqa: B006
    """Say what an experiment will do and cost, without running it."""
    from edgetem_nodes.graph.configuration import ConfigurationError
    from edgetem_nodes.operator.check import CheckError
    from edgetem_nodes.operator.check import check as check_experiment
    from edgetem_nodes.operator.experiment import load_experiment
    try:
        for line in check_experiment(load_experiment(configuration, overrides(settings))).lines():
            print(line)
    except (ConfigurationError, CheckError) as error:
        fail(error)


@app.command()
def init(file: Annotated[Path, typer.Argument(help="a measured scan that RosettaSciIO reads")],
         survey: Annotated[Path | None, typer.Option(help="file with the survey image, if it is another")] = None,
         signal: Annotated[str, typer.Option(help="title or number of the data set in the file")] = "",
         output: Annotated[Path | None, typer.Option(help="configuration to write; default FILE's name with .yaml")] = None,
         ) -> None:
    """Write a configuration for a file of one's own; shows what the file holds, with axes and units."""
    from edgetem_nodes.operator.initialise import InitError, initialise
    try:
        for line in initialise(file, survey, signal, output or Path(file.stem + ".yaml")):
            print(line)
    except InitError as error:
        fail(error)


@app.command()
def process(file: Annotated[Path, typer.Argument(help="a measured scan: what RosettaSciIO or h5py reads, .npy, raw")],
            features: Annotated[str, typer.Option(help="names separated by commas; 'list' lists them")] = "bf,adf,com",
            output: Annotated[Path | None, typer.Option(help="folder for maps.emd and PNGs; default FILE's name and "
                                                        "-processed")] = None,
            signal: Annotated[str, typer.Option(help="title or number of the data set; acquisition of an archive, or 'all'; "
                                                "path within HDF5")] = "",
            scan_shape: Annotated[str, typer.Option(metavar="ROWS,COLUMNS", help="raster of a list of frames")] = "",
            shape: Annotated[str, typer.Option(help="all dimensions of a raw file, e.g. 128,128,256,256")] = "",
            dtype: Annotated[str, typer.Option(help="type of a raw file, e.g. uint16 or '>u2'")] = "",
            offset: Annotated[int, typer.Option(help="bytes before the first frame of a raw file")] = 0,
            step: Annotated[float, typer.Option(metavar="NM", help="scan step")] = 0.0,
            high_tension: Annotated[float, typer.Option(metavar="KV", help="acceleration voltage")] = 0.0,
            semi_convergence: Annotated[float, typer.Option(metavar="MRAD", help="semi-convergence angle")] = 0.0,
            pixel_angle: Annotated[float, typer.Option(metavar="MRAD", help="angle of a detector pixel")] = 0.0,
            center: Annotated[str, typer.Option(metavar="Y,X", help="undeflected beam on the detector [pixel]")] = "",
            radius: Annotated[float, typer.Option(metavar="PIXELS", min=0.0, help="radius of the bright-field disk")] = 0.0,
            inner: Annotated[float, typer.Option(metavar="MRAD", help="inner angle of adf")] = 0.0,
            outer: Annotated[float, typer.Option(metavar="MRAD", help="outer angle of adf")] = 0.0,
            rotation: Annotated[float | None, typer.Option(metavar="DEG", help="of the scan's axes as seen on the detector, x "
                                                           "towards y")] = None,
            flipped: Annotated[bool, typer.Option(help="the detector's y runs against the scan's; counts with --rotation")]
            = False,
            descan: Annotated[str, typer.Option(metavar="measured|none|YY,YX,XY,XX", help="how patterns move with the "
                                                "position: measured and used where significant, not used, or "
                                                "stated [pixel/nm]")]
            = "measured",
            lattice: Annotated[str, typer.Option(help="of the specimen: graphene, MoS2, hBN, SrTiO3, Si[001], Au[001], "
                                                 "hexagonal:NM, square:NM, rectangular:NM,NM or rings:NM,...; measures the "
                                                 "pixel's angle and the scan step, or compares them")] = "",
            use_measured: Annotated[bool, typer.Option("--use-measured", help="what --lattice measures replaces what is stated "
                                                       "or in the file")] = False,
            dead: Annotated[Path | None, typer.Option(help=".npy, not 0 where a pixel is dead or behind the beam stop")] = None,
            dark: Annotated[Path | None, typer.Option(help=".npy, counts without beam")] = None,
            gain: Annotated[Path | None, typer.Option(help=".npy, what counts are multiplied by")] = None,
            counts_per_electron: Annotated[float, typer.Option(min=1e-9, help="detector counts that one electron makes")] = 1.0,
            readout_noise: Annotated[float, typer.Option(min=0.0, help="standard deviation of a pixel without beam [counts]")]
            = 0.0,
            saturation: Annotated[float, typer.Option(min=0.0, help="counts of a saturated pixel; 0: what the file or its type "
                                                      "says")] = 0.0,
            count: Annotated[bool, typer.Option("--count", help="count the electrons of analogue frames first")] = False,
            structure: Annotated[list[Path], typer.Option(help="CIF of a crystal, for orientation; may be repeated")] = [],
            block_mib: Annotated[float, typer.Option(min=0.001, help="MiB of frames read at once")] = 32.0,
            threads: Annotated[int, typer.Option(min=1, help="for the pass over the frames")] = 1,
            overwrite: Annotated[bool, typer.Option("--overwrite", help="replace earlier results")] = False,
            pictures: Annotated[bool, typer.Option(help="draw a PNG of each result")] = True,
            settings: Annotated[list[str], typer.Option("--set", metavar="FEATURE.KEY=VALUE", help="setting of a feature")]
            = []) -> None:  # noqa: B006
    """Compute features of a measured scan, larger than memory or not, and write them as EMD and PNG."""
    from rich.console import Console

    from edgetem_nodes.operator.processing.known_lattice import KnownLattice
    from edgetem_nodes.operator.processing.process import process as process_file
    from edgetem_nodes.operator.processing.registry import chosen, listing
    from edgetem_nodes.operator.processing.request import Request, descan_option, numbers
    from edgetem_nodes.operator.processing.results import ProcessingError
    if features == "list":
        print("\n".join(listing()))
        return
    try:
        names = chosen(features)
        changed = overrides(settings)
        request = Request(
            file, names, output or Path(f"{file.stem}-processed"), signal,
            numbers(shape, 0, "--shape", int) if shape else (), dtype, offset,
            numbers(scan_shape, 2, "--scan-shape", int) if scan_shape else None, step * 1e-9, high_tension * 1e3,
            semi_convergence * 1e-3, pixel_angle * 1e-3, numbers(center, 2, "--center") if center else None, radius,
            inner * 1e-3, outer * 1e-3, None if rotation is None else math.radians(rotation), flipped, dead, dark, gain,
            counts_per_electron, readout_noise, saturation, count, tuple(structure), max(1, int(block_mib * 2**20)), threads,
            overwrite, pictures, changed, *descan_option(descan),
            KnownLattice.of(lattice) if lattice else None, use_measured)
        raise typer.Exit(process_file(request, Console(stderr=True)))
    except ProcessingError as error:
        fail(error)
    except KeyboardInterrupt:
        print("ended: nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def doctor(folder: Annotated[Path, typer.Argument(help="where results would go")] = Path("runs"),
           as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False) -> None:
    """Check what this machine needs for an experiment: compiler, versions, shared memory, domain, discovery, disk."""
    from edgetem_nodes.operator.doctor import examine
    findings = examine(folder)
    if as_json:
        print(json.dumps({f.subject: {"state": f.state, "detail": f.detail} for f in findings}))
    else:
        for f in findings:
            print(f"{f.state:8s} {f.subject:14s} {f.detail}")
    raise typer.Exit(1 if any(f.state == "error" for f in findings) else 0)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="folder of an experiment")]) -> None:
    """Make bag and archive of an experiment readable if they are not, and write its summary and report again."""
    from edgetem_nodes.operator.run import finish, recorded_exit_code, repair_folder
    if not folder.is_dir():
        fail(f"{folder} is not a folder")
    for line in repair_folder(folder):
        print(line)
    raise typer.Exit(finish(folder, recorded_exit_code(folder), compared=True))


@app.command()
def bench(name: Annotated[str, typer.Argument(help="which benchmark")],
          as_json: Annotated[bool, typer.Option("--json", help="last line is one JSON object")] = False,
          quick: Annotated[bool, typer.Option("--quick", help="a short run, a minute or two where it compiles")] = False
          ) -> None:
    """Measure, with the limit or the peer in the same run."""
    from edgetem_nodes.operator.benchmark import BenchmarkError, run_benchmark
    try:
        run_benchmark(name, as_json, quick)
    except BenchmarkError as error:
        fail(error)


@app.command()
def gallery(names: Annotated[list[str] | None, typer.Argument(help="pictures to draw; default: all")] = None,
            output: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("gallery"),
            quick: Annotated[bool, typer.Option("--quick", help="two phonon configurations, not eight")] = False) -> None:
    """Draw every specimen of the virtual microscope: dark field, diffraction, energy losses, truth."""
    from rich.console import Console

    from edgetem_nodes.graph.configuration import nearest
    from edgetem_nodes.operator.gallery import CASES, draw
    unknown = [name for name in names or () if name not in CASES]
    if unknown:
        fail(f"there is no picture {unknown[0]!r}; there are {', '.join(CASES)}" + nearest(unknown[0], CASES))
    chosen, console = names or list(CASES), Console()
    for number, name in enumerate(chosen, start=1):
        with console.status("") as status:
            path = draw(name, output, quick, lambda what, n=number, k=name: status.update(f"{n}/{len(chosen)} {k}: {what}"))
        console.print(f"{number}/{len(chosen)} {path}", highlight=False, soft_wrap=True)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def compose(context: typer.Context) -> None:
    """Run several nodes in one process: NODE... [--ros-args ...]."""
    from edgetem_nodes.graph.compose import main as compose_main
    compose_main(context.args)


@app.command()
def version() -> None:
    """Say the version."""
    print(__version__)


def main() -> None:
    """Entry point of the command."""
    app()
