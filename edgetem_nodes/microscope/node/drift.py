"""Following the drift of the specimen: when a reference image is due it is taken, and later positions are corrected."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.graph.history import History
from edgetem_nodes.microscope.acquisition import Plan, RefusedError
from edgetem_nodes.microscope.node.console import Console, view
from edgetem_nodes.microscope.drift_tracking import coarsest_step
from edgetem_nodes.microscope.drivers import Survey
from edgetem_nodes.physics.exposure import Exposure


async def take_reference(console: Console, survey: Survey, exposure: Exposure) -> None:
    """Make a survey what drift is measured against, where drift is tracked. One that will not do is a warning."""
    if not console.parameters.drift_tracking.enabled:
        return
    try:
        await console.aside(console.tracker.set_survey, np.asarray(survey.data[0], float), exposure.elapsed)
        longest = coarsest_step(exposure.optics["high_tension"], exposure.optics["semi_convergence_angle"])
    except ValueError as error:
        console.node.warn(f"drift cannot be tracked: {error}")
    except KeyError:
        pass  # a column that does not know its optics cannot say whether a lattice is aliased
    else:
        step = max(abs(value) for value in console.field.step)
        if step > longest and not console.told_of_step:
            console.told_of_step = True
            console.node.warn("drift tracking may be misled by the specimen's lattice: the survey's step, "
                              f"{step * 1e9:.3g} nm, is longer than {longest * 1e9:.3g} nm, so a finer lattice shows as a "
                              "coarse one that moves wrongly")


def resume_tracking(console: Console) -> None:
    """Go on from the survey and the correction of an experiment that is resumed, where the view is still that survey's."""
    history, console.history = console.history, History()
    if not console.parameters.drift_tracking.enabled or history.survey is None or not history.exposures:
        return
    now = view(console.column.commanded_optics, console.column.commanded_stage)
    if any(view(past.optics, past.stage) != now for past, _ in history.exposures if past.elapsed >= history.survey_elapsed):
        return
    last = history.exposures[-1][0]
    try:
        console.tracker.set_survey(history.survey, history.survey_elapsed)
    except ValueError as error:
        console.node.warn(f"drift cannot be tracked: {error}")
    else:
        unknown = console.tracker.search / 2 if console.driver.real_time else 1.0  # a real stage has drifted meanwhile
        console.tracker.resume(last.elapsed, last.correction, last.correction_rate, unknown)


def tell_of_length(console: Console, plan: Plan) -> None:
    """Warn, once for a survey, of an acquisition that lasts longer than the drift may go unmeasured."""
    wanted, duration = console.parameters.drift_tracking, plan.count * plan.period
    if not console.tracker.surveyed or console.told_of_length:
        return
    if 0 < wanted.every_s < duration:
        limit = f"{duration:.4g} s is longer than drift_tracking.every_s, {wanted.every_s:g} s"
    elif 0 < wanted.every_points < plan.count:
        limit = f"{plan.count} points are more than drift_tracking.every_points, {wanted.every_points}"
    else:
        return
    console.told_of_length = True
    console.node.warn(f"drift is measured only before an acquisition: {limit}, and meanwhile the correction grows at the "
                      "rate measured last; ask for fewer points at once")


async def follow_drift(console: Console, plan: Plan) -> float:
    """Take the reference image that is due before an acquisition, and measure the drift by it; returns its electrons.

    An image that would leave too little dose for the acquisition, or that does not match the survey, is a warning: the
    correction goes on as it was.
    """
    tracker = console.tracker
    if console.parameters.drift_tracking.enabled and not (tracker.surveyed or tracker.unfit) and console.points_since == 0:
        console.node.warn("drift is not tracked: there is no survey of this view to compare with, take one")
    if not tracker.due(console.points_since, console.elapsed()):
        return 0.0
    before = console.dose.total
    _, _, rows, columns = tracker.region()
    try:
        console.afford(tracker.positions(), tracker.dwell, besides=plan)
        image, exposure = await console.image(tracker.positions(), (rows, columns), tracker.dwell, shown=True)
    except RefusedError as refusal:
        console.node.warn(f"no reference image for drift tracking: {refusal}")
        return 0.0
    console.points_since = 0
    if await console.aside(tracker.update, image, exposure.elapsed) is None:
        advice = "; it is lost: take a new survey, or give reference images more dose" if tracker.lost else ""
        console.node.warn(f"the drift was not measured, the correction goes on as it was: {tracker.problem}{advice}")
    return console.dose.total - before


def drift_values(console: Console) -> dict[str, str]:
    """The drift measured last, for the node's diagnostics: [nm], [nm/min]; empty where none was measured."""
    if not console.tracker.used:
        return {}
    drift = console.tracker.drift
    position, velocity = np.asarray(drift.position) * 1e9, np.asarray(drift.velocity) * 60e9
    return {"drift_nm": f"({position[0]:.3g}, {position[1]:.3g})",
            "drift_nm_per_min": f"({velocity[0]:.3g}, {velocity[1]:.3g})"}
