"""Parameters of the planner node. The names come without torch, so that a configuration is checked without it."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import group, parameter

FUNCTIONS = ("expected_improvement", "probability_of_improvement", "upper_confidence_bound", "thompson_sampling",
             "maximum_variance", "integrated_posterior_variance", "level_set", "top_set", "curiosity", "random")
"""Acquisition functions."""


@dataclass(frozen=True)
class Model:
    """The surrogate: what the planner believes between the points that it measured."""

    surrogate: str = parameter("gaussian_process", "Surrogate model: a Gaussian process on patch components and position, or "
                                                   "the same behind a network",
                               choices=("deep_kernel_learning", "gaussian_process"))
    kernel: str = parameter("matern", "Covariance: Matern with nu = 5/2, or squared exponential", choices=("matern", "rbf"))
    use_survey: bool = parameter(True, "Whether the model sees the survey's patch around each position")
    patch_size: int = parameter(5, "Edge of the survey patch around each position", unit="pixels", minimum=1, maximum=256)
    patch_components: int = parameter(6, "Principal components of the patches that the model sees", minimum=1, maximum=64)
    use_position: bool = parameter(True, "Whether the model knows the position besides the patch")
    embedding: int = parameter(8, "Dimensions that the network maps a patch to", minimum=1, maximum=16)
    hidden: int = parameter(16, "Units of the network's hidden layer", minimum=1, maximum=1024)
    amplitude: bool = parameter(True, "Whether the scalar's variability may follow brightness and local contrast of the "
                                      "survey")
    training_steps: int = parameter(30, "Evaluations of the objective at every decision, at most", minimum=0, maximum=10000)
    members: int = parameter(1, "Models of an ensemble: more of them tell better what is not known", minimum=1, maximum=32)
    exact_points: int = parameter(600, "Measured values, outputs counted each, up to which the posterior is exact", minimum=10,
                                  maximum=5000)
    inducing_points: int = parameter(512, "Inducing points where there are more measurements", minimum=10, maximum=4000)
    device: str = parameter("cpu", "Where the posterior is computed", choices=("cpu", "cuda"))


@dataclass(frozen=True)
class Actions:
    """What is free besides the position, and what it costs. A list of several values frees a quantity; one fixes it."""

    dwell_ms: list[float] = parameter([], "Dwell times; none: the instrument's", unit="ms", minimum=1e-6, maximum=1e6)
    probe_current_pA: list[float] = parameter([], "Probe currents", unit="pA", minimum=1e-3, maximum=1e6)
    semi_convergence_mrad: list[float] = parameter([], "Semi-convergence angles", unit="mrad", minimum=0.01, maximum=200.0)
    defocus_nm: list[float] = parameter([], "Defocus; positive is underfocus", unit="nm", minimum=-1e6, maximum=1e6)
    camera_length_mm: list[float] = parameter([], "Camera lengths", unit="mm", minimum=1.0, maximum=1e5)
    alpha_mrad: list[float] = parameter([], "First stage tilts", unit="mrad", minimum=-1600.0, maximum=1600.0)
    beta_mrad: list[float] = parameter([], "Second stage tilts", unit="mrad", minimum=-1600.0, maximum=1600.0)
    z_nm: list[float] = parameter([], "Stage heights", unit="nm", minimum=-1e6, maximum=1e6)
    optics_change_s: float = parameter(0.5, "Time that a change of the optics takes", unit="s", minimum=0.0, maximum=3600.0)
    camera_length_change_s: float = parameter(2.0, "Time that a change of the camera length takes", unit="s", minimum=0.0,
                                              maximum=3600.0)
    stage_change_s: float = parameter(10.0, "Time that a change of the stage takes", unit="s", minimum=0.0, maximum=3600.0)
    settling_ms: float = parameter(0.0, "Time that the probe takes to settle at a position", unit="ms", minimum=0.0,
                                   maximum=1e5)
    travel_ms_per_um: float = parameter(0.0, "Time that the probe takes to travel", unit="ms/um", minimum=0.0, maximum=1e5)
    scalar_counts: bool = parameter(False, "Whether the scalar is a number of counts, which grows with dwell time and current: "
                                           "readings are then divided by the dose of their setting over the first one's")
    cost: str = parameter("none", "What acquisition values are divided by: what a measurement costs in time (dwell, "
                                  "settling, travel, change of setting) or in dose", choices=("none", "time", "dose"))


@dataclass(frozen=True)
class Discovery:
    """What counts as found, said before the experiment begins; the verdict stands in the last decision."""

    level: float = parameter(0.0, "A position counts as a discovery where its value is above this level, in units of the "
                                  "scalar; 0 with confidence 0: nothing is tested", minimum=-1e300, maximum=1e300)
    confidence: float = parameter(0.0, "Confidence of the verdict over all measured positions together (Holm's correction "
                                       "for many tests); 0: no test", minimum=0.0, maximum=0.999999)
    positions: int = parameter(1, "Positions that must be above the level", minimum=1, maximum=1_000_000)


@dataclass(frozen=True)
class HighFidelity:
    """A better engine at a few sites of an energy map, which corrects the engine that computes all of them."""

    points: int = parameter(0, "Sites that are computed with it, at most; 0: none, the map is that of the one level", minimum=0,
                            maximum=1000)
    engine: str = parameter("", "Engine of the hpc_bridge; empty: its configured one")
    settings: str = parameter("", "JSON object that overrides the engine's settings; empty: none")


@dataclass(frozen=True)
class Energetics:
    """Energies of the most telling positions at the end of the experiment, or of every site: then they are the map."""

    points: int = parameter(0, "Structures to compute at the end; 0: none", minimum=0, maximum=1000)
    mapped: bool = parameter(False, "Whether the map is of the excess energy density: it is computed for the structure at "
                                    "each site, in every turn, and takes the place of the measurements' first column")
    engine: str = parameter("", "Engine of the hpc_bridge; empty: its configured one")
    settings: str = parameter("", "JSON object that overrides the engine's settings; empty: none")
    timeout_s: float = parameter(300.0, "Longest wait for the next step of a computation", unit="s", minimum=1.0)
    averaging_nm: float = parameter(0.0, "Radius of the disc over which the energy map is averaged; 0: the map is of the "
                                         "expected energy density at each position", unit="nm", minimum=0.0, maximum=1e6)
    high_fidelity: HighFidelity = group(HighFidelity)


@dataclass(frozen=True)
class MicroScan:
    """A second acquisition at each site of an energy map: a square of focused-probe patterns, which shows single atoms."""

    enabled: bool = parameter(False, "Whether it is taken; the optics of the nanobeam to which the microscope goes back must "
                                     "stand under actions")
    semi_convergence_mrad: float = parameter(25.0, "Semi-convergence angle", unit="mrad", minimum=0.01, maximum=200.0)
    defocus_nm: float = parameter(0.0, "Defocus; positive is underfocus", unit="nm", minimum=-1e6, maximum=1e6)
    probe_current_pA: float = parameter(0.0, "Probe current; 0: left as it is", unit="pA", minimum=0.0, maximum=1e6)
    camera_length_mm: float = parameter(0.0, "Camera length; 0: left as it is", unit="mm", minimum=0.0, maximum=1e5)
    dwell_ms: float = parameter(0.0, "Dwell time of a site, all its probes together; 0: the instrument's", unit="ms",
                                minimum=0.0, maximum=1e6)


@dataclass(frozen=True)
class Parameters:
    """What the experiment may cost, when it ends, and how positions are chosen."""

    seed: int = parameter(0, "Seed of everything random in the experiment", minimum=0, maximum=2**62)
    output: str = parameter("", "Folder of the experiment; empty: no checkpoints are written", path=True)
    point_budget: int = parameter(340, "Positions to measure, initial ones counted", minimum=1, maximum=1_000_000)
    dose_budget: float = parameter(0.0, "Dose that the experiment may spend, survey counted; 0: no limit", unit="electrons",
                                   minimum=0.0)
    time_budget_s: float = parameter(0.0, "Acquisition time that the experiment may spend; 0: no limit", unit="s",
                                     minimum=0.0)
    target_standard_deviation: float = parameter(
        0.0, "The experiment ends when the map's standard deviation is nowhere larger, in units of the scalar; 0: no target",
        minimum=0.0)
    predictability_target: float = parameter(
        0.0, "The experiment ends when what was predicted of the latest measurements before they were made explains this "
             "share of the variance (prequential R-squared); 0: no target", minimum=0.0, maximum=1.0)
    convergence_target: float = parameter(
        0.0, "The experiment ends when the map changes by less than this share of its own standard deviation in each of "
             "convergence_batches batches; 0: no target", minimum=0.0, maximum=1.0)
    convergence_batches: int = parameter(3, "Batches over which the map must stand still", minimum=1, maximum=1000)
    stop_when: str = parameter("any", "Whether any of the targets ends the experiment, or all of them together; budgets end "
                                      "it in any case", choices=("any", "all"))
    initial_points: int = parameter(40, "Positions of the sparse initial scan", minimum=1, maximum=100_000)
    initial_design: str = parameter("position", "What the positions of the initial scan are spread over: the field, or the "
                                                "kinds of survey patches that there are and the field",
                                    choices=("position", "survey"))
    batch_points: int = parameter(20, "Positions of every later acquisition", minimum=1, maximum=100_000)
    acquisition_function: str = parameter(
        "maximum_variance", "What the next positions are chosen for: expected_improvement, probability_of_improvement, "
                            "upper_confidence_bound, thompson_sampling and top_set find extremes, level_set a contour, "
                            "maximum_variance and integrated_posterior_variance map the field, curiosity goes where the "
                            "structure predicts the scalar worst",
        choices=FUNCTIONS)
    target_fraction: float = parameter(
        0.0, "Share of the field that is sought: improvement is over the level that this share of the predicted map "
             "exceeds, top_set looks for what is above it (0.02 there where this is 0); 0: improvement is over the best "
             "prediction at a measured position", minimum=0.0, maximum=0.5)
    level: float = parameter(0.0, "Value whose contour level_set looks for, in units of the scalar")
    exploration: str = parameter("integrated_posterior_variance", "Acquisition function of the exploring share of each batch",
                                 choices=("maximum_variance", "integrated_posterior_variance", "curiosity", "random"))
    exploration_fraction: float = parameter(0.0, "Share of each batch that explores", minimum=0.0, maximum=1.0)
    confidence: float = parameter(2.0, "Standard deviations that upper_confidence_bound adds to the mean", minimum=0.0,
                                  maximum=100.0)
    recency_length: float = parameter(0.0, "Distance from the latest measurements within which further ones count for less, "
                                           "as a share of the field's longer side; 0: no such penalty", minimum=0.0,
                                      maximum=1.0)
    recency_batches: int = parameter(3, "Batches after which a measurement is no longer a recent one", minimum=1, maximum=100)
    outputs: list[str] = parameter([], "Further columns of the measurements that are learned together with the scalar")
    approve_batches: bool = parameter(False, "Whether every batch waits for the operator's approval")
    position_dose_limit: float = parameter(0.0, "Dose that any one position may receive, the survey's share counted; 0: no "
                                                "limit", unit="electrons", minimum=0.0)
    reserved_fraction: float = parameter(0.0, "Share of the positions, drawn at random, that is never measured: to judge the "
                                              "map by", minimum=0.0, maximum=0.9)
    failure_retries: int = parameter(1, "Times that a position is asked for again after its measurement failed", minimum=0,
                                     maximum=100)
    measurement_timeout_s: float = parameter(
        30.0, "Longest silence of the microscope, the detector or the featurizer during an acquisition", unit="s",
        minimum=0.5, maximum=86400.0)
    actions: Actions = group(Actions)
    discovery: Discovery = group(Discovery)
    model: Model = group(Model)
    energetics: Energetics = group(Energetics)
    micro_scan: MicroScan = group(MicroScan)
