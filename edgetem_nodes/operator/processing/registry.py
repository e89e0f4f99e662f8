"""The features by name."""

from __future__ import annotations

from edgetem_nodes.graph.configuration import nearest
from edgetem_nodes.operator.processing import deflection, detectors, phase, spectra, structure
from edgetem_nodes.operator.processing.feature import Feature
from edgetem_nodes.operator.processing.results import ProcessingError

FEATURES: dict[str, type[Feature]] = {kind.name: kind for kind in (
    detectors.BrightField, detectors.AnnularBrightField, detectors.AnnularDarkField, detectors.HighAngleAnnularDarkField,
    detectors.Segments, detectors.Total, detectors.Variance, deflection.CenterOfMass, deflection.DifferentialPhaseContrast,
    deflection.IntegratedCenterOfMass, deflection.Curl, deflection.Divergence, deflection.ElectricField,
    phase.SingleSideBandPhase, phase.ParallaxPhase, structure.Strain, structure.Orientation, spectra.Spectrum, spectra.Edge,
    spectra.Plasmon, spectra.RelativeThickness, spectra.Elements)}


def listing() -> list[str]:
    """A line a feature, for people."""
    lines = []
    for name, kind in FEATURES.items():
        signals = " and ".join({1: "spectra", 2: "patterns"}[n] for n in kind.signals)
        settings = ", ".join(f"{key} {value}" for key, value in kind.settings.items())
        lines.append(f"{name:14s} {kind.summary} ({signals}{'; --set: ' + settings if settings else ''})")
    return lines


def chosen(text: str) -> tuple[str, ...]:
    """Names of features from a list separated by commas, each once.

    Raises
    ------
    ProcessingError : one is not known.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in FEATURES:
            raise ProcessingError(f"there is no feature {name!r}{nearest(name, FEATURES)}; there are {', '.join(FEATURES)}")
    if not names:
        raise ProcessingError(f"name features with --features, e.g. bf,adf,com; there are {', '.join(FEATURES)}")
    return names
