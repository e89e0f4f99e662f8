"""Parameters of the featurizer node."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgetem_nodes.featurizer.micro_scan.parameters import MicroScanAtoms
from edgetem_nodes.graph.configuration import group, parameter
from edgetem_nodes.graph.instrument import Beam


@dataclass
class EelsEdge:
    """Net signal of a core-loss edge above a power-law background."""

    background_eV: list[float] = parameter([750.0, 920.0], "window below the edge in which the power law is fitted: "
                                           "first and last energy loss", unit="eV")
    signal_eV: list[float] = parameter([930.0, 1010.0], "window above the edge that is summed: first and last energy loss",
                                       unit="eV")


@dataclass
class EelsBandRatio:
    """Ratio of the counts in two energy windows, regularised by fixed counts."""

    low_eV: list[float] = parameter([2.0, 4.0], "window of the numerator: first and last energy loss", unit="eV")
    high_eV: list[float] = parameter([15.0, 23.0], "window of the denominator: first and last energy loss", unit="eV")
    regularisation_counts: float = parameter(100.0, "added to both windows: keeps the ratio finite and quiet where there is "
                                             "no material; above the counts of an empty place, below those of the specimen",
                                             unit="counts", minimum=1e-6, maximum=1e12)
    align_zero_loss: bool = parameter(False, "move the windows with the zero-loss peak of each spectrum")
    zero_loss_search_eV: float = parameter(3.0, "the zero-loss peak is looked for within this energy of no loss", unit="eV",
                                           minimum=0.01, maximum=100.0)


@dataclass
class EelsPeak:
    """Energy of the peak in a window."""

    window_eV: list[float] = parameter([10.0, 35.0], "window in which the peak lies: first and last energy loss", unit="eV")
    fit_eV: float = parameter(6.0, "range about the top in which a parabola is fitted, 5 channels or more: about the peak's "
                              "full width at half maximum", unit="eV", minimum=1e-4, maximum=1000.0)
    background: str = parameter("none", "what is taken off first", choices=("none", "constant", "power_law"))
    background_eV: list[float] = parameter([], "window in which the background is fitted: first and last energy loss; empty "
                                           "where it is none", unit="eV")
    smallest_significance: float = parameter(5.0, "height and curvature of a peak are at least this many standard errors; less "
                                             "is a failed measurement", minimum=0.0, maximum=1000.0)
    align_zero_loss: bool = parameter(False, "measure from the zero-loss peak of each spectrum, and move the windows with it")
    zero_loss_search_eV: float = parameter(3.0, "the zero-loss peak is looked for within this energy of no loss", unit="eV",
                                           minimum=0.01, maximum=100.0)


@dataclass
class EelsBandMaximum:
    """Largest intensity in a band of energies."""

    band_eV: list[float] = parameter([10.0, 35.0], "band: first and last energy loss", unit="eV")
    smoothing_channels: int = parameter(4, "consecutive channels whose mean counts, an even number", minimum=2, maximum=4096)
    background: str = parameter("none", "what is taken off first", choices=("none", "constant", "power_law"))
    background_eV: list[float] = parameter([], "window in which the background is fitted: first and last energy loss; empty "
                                           "where it is none", unit="eV")


@dataclass
class EdsWindow:
    """Counts of an X-ray line, less a linear background where side windows are given."""

    window_keV: list[float] = parameter([6.2, 6.6], "window that is summed: first and last energy", unit="keV")
    background_keV: list[float] = parameter([], "none, one (two numbers) or two (four numbers) side windows: no, a constant "
                                            "or a linear background", unit="keV")


@dataclass
class VirtualDetector:
    """Counts on a disk, ring or segment of the detector."""

    inner_mrad: float = parameter(0.0, "inner radius", unit="mrad", minimum=0.0)
    outer_mrad: float = parameter(20.0, "outer radius", unit="mrad", minimum=0.0)
    center_mrad: list[float] = parameter([0.0, 0.0], "centre, (y, x)", unit="mrad")
    first_deg: float = parameter(0.0, "where a segment begins: angle from x towards y", unit="deg", minimum=-360.0,
                                 maximum=360.0)
    last_deg: float = parameter(360.0, "where it ends; 360 above the first: the whole ring", unit="deg", minimum=-360.0,
                                maximum=720.0)
    quantity: str = parameter("counts", "the scalar: counts, their fraction of all counts on the detector, the difference from "
                              "the segment opposite, or that over the sum of both (asymmetry)",
                              choices=("counts", "fraction", "difference", "asymmetry"))


@dataclass
class CenterOfMass:
    """Mean deflection of the beam."""

    component: str = parameter("magnitude", "which component is the scalar", 
                               choices=("magnitude", "y", "x", "angle"))
    outer_mrad: float = parameter(0.0, "radius about the centre within which pixels count; 0: the whole detector",
                                  unit="mrad", minimum=0.0)
    center_mrad: list[float] = parameter([0.0, 0.0], "deflection is measured from here, (y, x)", unit="mrad")


@dataclass
class Lattice:
    """Strain of a hexagonal sheet from its Bragg disks in nanobeam diffraction."""

    component: str = parameter("dilation", "which component is the scalar",
                               choices=("dilation", "exx", "eyy", "exy", "rotation"))
    material: str = parameter("MoS2", "the sheet; sets the reference lattice", choices=("MoS2", "graphene"))
    lattice_constant_nm: float = parameter(0.0, "unstrained lattice constant; 0: the material's literature value",
                                           unit="nm", minimum=0.0, maximum=2.0)
    rotation_deg: float = parameter(0.0, "orientation of the unstrained lattice: angle of its first lattice vector from "
                                    "the x axis towards the y axis", unit="deg", minimum=-180.0, maximum=180.0)
    free_rotation: bool = parameter(False, "find the orientation of every pattern first: for grains at any angle")
    high_tension_kV: float = parameter(0.0, "of the electrons; 0: instrument.high_tension_kV", unit="kV", minimum=0.0,
                                       maximum=3000.0)
    semi_convergence_mrad: float = parameter(0.0, "radius of a disk; 0: instrument.semi_convergence_mrad", unit="mrad",
                                             minimum=0.0, maximum=50.0)
    margin_mrad: float = parameter(1.25, "a disk's window is this much larger than the disk on every side", unit="mrad",
                                   minimum=0.0, maximum=50.0)
    shells: int = parameter(2, "shells of disks to use, from the innermost {10}; those outside the detector are left out",
                            minimum=1, maximum=4)
    center_mrad: list[float] = parameter([0.0, 0.0], "nominal position of the central disk, (y, x)", unit="mrad")
    largest_strain_percent: float = parameter(12.0, "a larger measured strain is a failed measurement", unit="%",
                                              minimum=0.1, maximum=30.0)


@dataclass
class StrainEnergy:
    """Elastic energy of the strained sheet that `lattice` measures."""

    c11_N_per_m: float = parameter(0.0, "two-dimensional elastic constant C11; 0: the material's literature value", unit="N/m",
                                   minimum=0.0, maximum=10000.0)
    c12_N_per_m: float = parameter(0.0, "two-dimensional elastic constant C12, used where C11 is given", unit="N/m",
                                   minimum=-10000.0, maximum=10000.0)


@dataclass
class Descriptor:
    """One column of another scalarizer as the scalar."""

    source: str = parameter("lattice", "scalarizer that makes the columns; it takes its own parameters")
    column: str = parameter("exy", "which of its columns is the scalar; the others follow")


@dataclass
class Structure:
    """Atoms for a calculation, from the measured strain and, where there is one, a micro-scan at the same place."""

    supercell: int = parameter(3, "unit cells along each lattice vector, where no micro-scan says how much was seen", minimum=1,
                               maximum=20)
    vacuum_nm: float = parameter(1.0, "empty space above and below the sheet", unit="nm", minimum=0.1, maximum=10.0)
    largest_error_percent: float = parameter(2.0, "standard error of the strain above which the structure counts as not "
                                             "identifiable", unit="%", minimum=0.001, maximum=30.0)
    smallest_distance: float = parameter(0.75, "shortest distance between two atoms that is accepted, as a fraction of the "
                                         "bond length of the unstrained sheet", minimum=0.1, maximum=1.0)
    largest_atoms: int = parameter(200, "most atoms of a cell", minimum=1, maximum=5000)
    least_phase_probability: float = parameter(0.9, "probability of the phase below which the structure counts as not "
                                               "identifiable", minimum=0.0, maximum=1.0)
    uncertain_defects: int = parameter(5, "sites of a cell that may have a defect with a probability between 0.2 and 0.8; more "
                                       "count as not identifiable", minimum=0, maximum=1000)


@dataclass
class EelsPlasmon:
    """Energy of the bulk plasmon."""

    quantity: str = parameter("energy", "the scalar; the others follow", choices=("energy", "width", "losses"))
    window_eV: list[float] = parameter([10.0, 40.0], "window that is fitted: first and last energy loss", unit="eV")
    zero_loss_end_eV: float = parameter(3.0, "energy loss at which the zero-loss peak ends", unit="eV", minimum=0.01,
                                        maximum=100.0)
    model: str = parameter("drude", "shape of a single loss", choices=("drude", "lorentzian", "gaussian"))
    plural_scattering: bool = parameter(True, "an electron may lose energy more than once")


@dataclass
class EelsThickness:
    """Thickness from the ratio of all counts to those of the zero-loss peak."""

    zero_loss_end_eV: float = parameter(3.0, "energy loss at which the zero-loss peak ends", unit="eV", minimum=0.01,
                                        maximum=100.0)
    mean_free_path_nm: float = parameter(0.0, "inelastic mean free path; 0: the scalar is thickness over mean free path",
                                         unit="nm", minimum=0.0, maximum=10000.0)


@dataclass
class BraggStrain:
    """Strain of any crystal from its Bragg disks in nanobeam diffraction."""

    component: str = parameter("dilation", "which component is the scalar",
                               choices=("dilation", "exx", "eyy", "exy", "rotation"))
    sample: str = parameter("", "file of patterns of this specimen, any that 'edgetem process' reads, from which lattice, "
                            "disks and background are learnt; strain is relative to its median lattice", path=True)
    contrast: str = parameter("linear", "how a disk's inside may vary: dynamical diffraction", choices=("uniform", "linear",
                              "quadratic"))
    most_disks: int = parameter(24, "the strongest so many disks are fitted", minimum=3, maximum=200)
    largest_strain_percent: float = parameter(15.0, "a larger measured strain is a failed measurement", unit="%", minimum=0.1,
                                              maximum=30.0)


@dataclass
class Orientation:
    """Orientation of a crystal by matching with simulated patterns."""

    quantity: str = parameter("misorientation", "the scalar; the others follow",
                              choices=("misorientation", "tilt", "in_plane", "score", "reliability"))
    structure: str = parameter("", "structure file of the crystal that ASE reads: CIF, ...", path=True)
    reference: list[float] = parameter([], "orientation from which misorientation and tilt are counted: nine numbers of the "
                                       "matrix that takes the crystal's axes to the scan's, row by row, (z, y, x); empty: they "
                                       "coincide")
    thickness_nm: float = parameter(10.0, "of the specimen along the beam, roughly", unit="nm", minimum=0.1, maximum=1000.0)
    step_deg: float = parameter(2.0, "between neighbouring zone axes of the templates", unit="deg", minimum=0.2, maximum=10.0)
    lowest_score: float = parameter(0.4, "a lower score is a failed measurement", minimum=0.0, maximum=0.99)
    bloch_waves: bool = parameter(False, "refine by dynamical intensities: the tilt to tenths of a degree instead of one, at "
                                  "0.3 s a pattern")


@dataclass
class Cbed:
    """Crystal and specimen from single diffraction patterns by trained networks: nanobeam patterns, or micro-scans of focused
    probes."""

    component: str = parameter("dilation", "which quantity is the scalar of a nanobeam pattern",
                               choices=("dilation", "exx", "eyy", "exy", "rotation", "thickness", "tilt_y", "tilt_x"))
    weights: str = parameter("", "weights for nanobeam patterns that 'edgetem train cbed' wrote; empty: those that come with "
                             "the package", path=True)
    material: str = parameter("", "phase that is expected, one of those that the weights know, e.g. 'MoS2': 20 times as "
                               "likely as it would be; empty: none is")
    reference_nm: list[float] = parameter([], "undeformed lattice, four numbers: first vector (y, x), second vector (y, x); "
                                          "with it, strain of materials that were not trained is known; empty: the phase's",
                                          unit="nm")
    lattice_constant_nm: float = parameter(0.0, "length of the undeformed lattice's first vector, its shape staying; 0: the "
                                           "phase's", unit="nm", minimum=0.0, maximum=5.0)
    rotation_deg: float = parameter(0.0, "orientation of the undeformed lattice: angle of its first vector from the x axis "
                                    "towards the y axis", unit="deg", minimum=-180.0, maximum=180.0)
    semi_convergence_mrad: float = parameter(0.0, "of the nanobeam, the radius of a disk; 0: instrument.semi_convergence_mrad",
                                             unit="mrad", minimum=0.0, maximum=50.0)
    defocus_nm: float = parameter(0.0, "of the nanobeam: widens the footprint", unit="nm", minimum=-1e4, maximum=1e4)
    largest_error_percent: float = parameter(3.0, "standard error of a strain above which the pattern is a failed measurement",
                                             unit="%", minimum=0.001, maximum=30.0)
    least_phase_probability: float = parameter(0.95, "with which a phase is told; below, what depends on it is given where all "
                                               "phases that are left agree", minimum=0.01, maximum=0.999)
    micro_scan: MicroScanAtoms = group(MicroScanAtoms)


@dataclass
class Geometry:
    """How the detector sees the scan."""

    rotation_deg: float = parameter(0.0, "of the scan's axes as seen on the detector, from x towards y", unit="deg",
                                    minimum=-360.0, maximum=360.0)
    flipped: bool = parameter(False, "the detector's y axis runs against the scan's")
    center_mrad: list[float] = parameter([0.0, 0.0], "undeflected beam on the detector, (y, x)", unit="mrad")


@dataclass
class CorrectionMaps:
    """Maps (rows, columns) that correct diffraction patterns before anything else is made of them: .npy files."""

    dark: str = parameter("", "signal without beam [counts], subtracted; empty: none", path=True)
    gain: str = parameter("", "what counts are multiplied by once the dark signal is gone; empty: 1", path=True)
    dead: str = parameter("", "true on pixels that are not to be used, a beam stop among them; empty: none", path=True)
    interpolate: bool = parameter(False, "give isolated dead pixels the mean of their neighbours; else virtual detectors and "
                                  "the centre of mass leave them out, and other scalarizers fail where they need them")


@dataclass
class Counting:
    """Electron counting of analogue frames, before anything else is made of them."""

    sample: str = parameter("", "file of such frames, any that 'edgetem process' reads, from which background and thresholds "
                            "are learnt, with corrections.dark and gain; counts_per_electron and readout_noise are then not "
                            "used; empty: frames are not counted", path=True)


@dataclass
class Live:
    """Images of the running scan, beside the scalar."""

    images: list[str] = parameter(["bf", "adf", "com_magnitude"], "maps of diffraction patterns that are published on "
                                  "images/NAME: sum, bf, abf, adf, haadf, com_y, com_x, com_magnitude, com_angle, dpc_y, "
                                  "dpc_x; of a raster also icom, div, curl and ssb; empty: none")
    period_s: float = parameter(1.0, "shortest time between two images of a name; 0: only after each acquisition", unit="s",
                                minimum=0.0)
    defocus_nm: float = parameter(0.0, "defocus that ptychography corrects, positive: underfocus", unit="nm", minimum=-1e5,
                                  maximum=1e5)


@dataclass
class Parameters:
    """All parameters of the featurizer."""

    scalarizer: str = parameter("lattice", "what a frame becomes: eels_edge, eels_peak, eels_band_maximum, eels_band_ratio, "
                                "eels_plasmon, eels_thickness, eds_window, total_counts, virtual_detector, center_of_mass, "
                                "lattice, strain_energy, bragg_strain, orientation, cbed, descriptor, or one that an "
                                "installed package adds")
    label: str = parameter("", "name of the scalar on maps and in reports, e.g. 'Cu-L net'; empty: the scalarizer's own")
    settings: str = parameter("", "JSON object for a scalarizer that an installed package adds; empty: none")
    counts_per_electron: float = parameter(1.0, "detector counts that one electron or X-ray makes: sets the standard errors",
                                           minimum=1e-6, maximum=1e6)
    readout_noise: float = parameter(0.0, "standard deviation of a pixel without signal", unit="counts", minimum=0.0)
    saturation: float = parameter(0.0, "counts at which a pixel is saturated; 0: the largest value of an integer frame's "
                                  "type, signed or not, none for other frames", unit="counts", minimum=0.0)
    instrument: Beam = group(Beam)
    eels_edge: EelsEdge = group(EelsEdge)
    eels_peak: EelsPeak = group(EelsPeak)
    eels_band_maximum: EelsBandMaximum = group(EelsBandMaximum)
    eels_band_ratio: EelsBandRatio = group(EelsBandRatio)
    eds_window: EdsWindow = group(EdsWindow)
    virtual_detector: VirtualDetector = group(VirtualDetector)
    center_of_mass: CenterOfMass = group(CenterOfMass)
    lattice: Lattice = group(Lattice)
    strain_energy: StrainEnergy = group(StrainEnergy)
    descriptor: Descriptor = group(Descriptor)
    structure: Structure = group(Structure)
    eels_plasmon: EelsPlasmon = group(EelsPlasmon)
    eels_thickness: EelsThickness = group(EelsThickness)
    bragg_strain: BraggStrain = group(BraggStrain)
    orientation: Orientation = group(Orientation)
    cbed: Cbed = group(Cbed)
    geometry: Geometry = group(Geometry)
    corrections: CorrectionMaps = group(CorrectionMaps)
    counting: Counting = group(Counting)
    live: Live = group(Live)
    output: str = parameter("", "the experiment's folder: archive.h5 in it is read where the scalarizer is changed in mid-run",
                            path=True)
    archive_timeout_s: float = parameter(15.0, "where the scalarizer is changed in mid-run: how long the compressor may say "
                                         "nothing while blocks wait to be archived, before their rows are marked as failed",
                                         unit="s", minimum=0.1, maximum=600.0)
    window_MiB: int = parameter(16, "detector data that may be on its way to this node", unit="MiB", minimum=1, maximum=1024)
    preview_period_s: float = parameter(0.5, "shortest time between two live images; 0: none", unit="s", minimum=0.0)
    remembered_rows: int = parameter(200000, "measurements kept for get_structure; the oldest are forgotten",
                                     minimum=1, maximum=100000000)
    straggler_timeout_s: float = parameter(3.0, "how long after the end of an acquisition blocks that were sent are waited "
                                           "for before their rows are marked as failed", unit="s", minimum=0.0, maximum=60.0)

    def resolved_lattice(self) -> Lattice:
        """The lattice's settings with the instrument's beam where they name none of their own."""
        return replace(self.lattice, high_tension_kV=self.lattice.high_tension_kV or self.instrument.high_tension_kV,
                       semi_convergence_mrad=self.lattice.semi_convergence_mrad or self.instrument.semi_convergence_mrad)
