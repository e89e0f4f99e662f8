"""Low losses: zero-loss peak, bulk and surface plasmons of a slab, edge plasmon, plural scattering. Energies in eV.

Fields are not retarded (no Cherenkov losses, no guided modes); the electron's kinematics are relativistic.
"""

from __future__ import annotations

import math

import numpy as np

from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE, wavelength
from edgetem_nodes.physics.energy_loss.core_loss import angular_factor, inner_shell_loss, scattering_rate
from edgetem_nodes.physics.energy_loss.materials import REDUCED_PLANCK, EdgeMode, Material, speed

TAIL_FRACTION = 0.12
"""Of the zero-loss peak in its tails: a tenth to a hundredth of a percent of the height is left ten widths away."""
TAIL_WIDTH = 1.6
"""Width of the tails' core over the peak's."""
GAP_WIDTH = 0.2
"""[eV] over which the losses set in at a band gap."""
JOIN_WIDTH = 0.08
"""Width in ln E of the passage from oscillators to photoabsorption data."""
FARTHEST_LOSS = 29e3
"""[eV] up to which losses count in the mean free path."""
WAVENUMBERS = 96
"""Points of the integral over the surface plasmons' wave vectors."""
EDGE_CORE = 1e-9
"""[m] within which a finite rim cuts off the logarithmic rise of K0."""


def zero_loss_peak(energies: np.ndarray, resolution: float, dispersion: float) -> np.ndarray:
    """Fraction of the zero-loss electrons in each channel centred at `energies` [eV], of their shape; sums to 1.

    A Gaussian core with tails that fall as E^-3 (Student's t with two degrees of freedom, whose integral is elementary):
    measured peaks have them from the source, the spectrometer's aberrations and the camera's point spread.

    Parameters
    ----------
    resolution : full width at half maximum [eV].
    dispersion : width of a channel [eV].
    """
    from scipy.special import ndtr

    sigma = resolution / math.sqrt(8 * math.log(2))
    tail = TAIL_WIDTH * resolution / 2.0

    def integral(energy: np.ndarray) -> np.ndarray:
        x = energy / tail
        return (1 - TAIL_FRACTION) * ndtr(energy / sigma) + TAIL_FRACTION * 0.5 * (1 + x / np.sqrt(1 + x ** 2))

    energies = np.asarray(energies, float)
    return integral(energies + 0.5 * dispersion) - integral(energies - 0.5 * dispersion)


def bulk_loss(material: Material, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy-loss functions (valence, inner shells) at `energies` [eV] > 0, each of their shape; their sum is the bulk's.

    Oscillators below `material.join`, photoabsorption above it.
    """
    valence = (-1 / material.permittivity(energies)).imag * gap_factor(material, energies)
    upper = 1 / (1 + np.exp(-np.clip(np.log(energies / material.join) / JOIN_WIDTH, -60, 60)))
    return valence * (1 - upper), inner_shell_loss(material, np.maximum(energies, 25.0)) * upper


def gap_factor(material: Material, energies: np.ndarray) -> np.ndarray:
    """0 below the band gap, 1 above it: a Lorentz oscillator's tail into the gap is an artefact of the model."""
    if material.gap <= 0:
        return np.ones(np.shape(energies))
    return 1 / (1 + np.exp(-np.clip((energies - material.gap) / (GAP_WIDTH / 2), -60, 60)))


def slab_loss(permittivity: np.ndarray, energies: np.ndarray, thickness: float, high_tension: float,
              collection_angle: float) -> np.ndarray:
    """Probability density (energies,) [1/eV] of one loss by a free-standing slab crossed at normal incidence.

    The loss to the potential that the slab's response adds to the electron's own, from Poisson's equation with the boundary
    conditions of both faces: bulk term, begrenzung and coupled surface plasmons together (Ritchie, Phys. Rev. 106, 874
    (1957); Egerton, EELS in the EM, 3rd ed., 3.3.5).

    Parameters
    ----------
    permittivity : complex (energies,), relative.
    energies : (energies,) [eV] > 0.
    thickness : [m].
    high_tension : [V].
    collection_angle : half angle [rad].
    """
    largest = 2 * math.pi / wavelength(high_tension) * collection_angle
    along = energies[:, None] * ELEMENTARY_CHARGE / (REDUCED_PLANCK * speed(high_tension))
    across = np.geomspace(1e-4, 1.0, WAVENUMBERS)[None, :] * largest
    eps = permittivity[:, None]
    decay, phase = np.exp(-across * thickness), np.exp(1j * along * thickness)
    square = across ** 2 + along ** 2
    source = (1 - 1 / eps) / square
    plus, minus = 1 + eps, decay * (1 - eps)
    determinant = plus ** 2 - minus ** 2
    near = source * (plus - minus * phase) / determinant
    far = source * (plus * phase - minus) / determinant
    before, after = eps * (far * decay - near), eps * (near * decay - far)
    forward, backward = across + 1j * along, across - 1j * along
    induced = (-thickness * (1 - 1 / eps) / square + before / backward + after * phase.conj() / forward
               + near * (1 - decay * phase.conj()) / forward + far * (phase.conj() - decay) / backward)
    integrand = -2 * across ** 2 * induced.imag
    return scattering_rate(high_tension) * np.trapezoid(integrand, np.log(across), axis=1)


def surface_loss(material: Material, energies: np.ndarray, thicknesses: np.ndarray, high_tension: float,
                 collection_angle: float) -> np.ndarray:
    """What a slab's two faces add to the bulk's loss (thicknesses, energies) [1/eV]: surface plasmons less begrenzung."""
    eps = material.permittivity(energies)
    gap = gap_factor(material, energies)
    infinite = 1e-5
    bulk_rate = slab_loss(eps, energies, 2 * infinite, high_tension, collection_angle) - slab_loss(
        eps, energies, infinite, high_tension, collection_angle)
    fading = 1 / (1 + np.exp(np.clip(np.log(energies / material.join) / JOIN_WIDTH, -60, 60)))
    return np.stack([(slab_loss(eps, energies, thickness, high_tension, collection_angle)
                      - bulk_rate * thickness / infinite) * gap * fading for thickness in thicknesses])


def bulk_rate(material: Material, energies: np.ndarray, high_tension: float, semi_convergence_angle: float,
              collection_angle: float) -> tuple[np.ndarray, float]:
    """Probability density a length [1/(m eV)] of one bulk loss, of the shape of `energies` [eV] > 0, and the valence scale.

    The valence part is scaled so that all losses together have the mean free path of Iakoubovskii's formula; inner shells
    keep their cross-section. A monolayer is not scaled.
    """
    angle = max(semi_convergence_angle, collection_angle)

    def rates(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        factor = scattering_rate(high_tension) * angular_factor(at, high_tension, angle)
        valence, inner = bulk_loss(material, at)
        return valence * factor, inner * factor

    scale = 1.0
    if not material.monolayer:
        every = np.concatenate([np.arange(0.01, 100.0, 0.01), np.geomspace(100.0, FARTHEST_LOSS, 4000)])
        valence, inner = (np.trapezoid(part, every) for part in rates(every))
        scale = (1 / material.mean_free_path(high_tension, semi_convergence_angle, collection_angle) - inner) / valence
    valence, inner = rates(energies)
    return scale * valence + inner, float(scale)


def edge_excitation(distance: np.ndarray, mode: EdgeMode, high_tension: float) -> np.ndarray:
    """Probability (n,) of exciting a rim's plasmon at a signed distance (n,) [m] from the rim, outside positive.

    Outside K0(2 omega b / v)^2, finite on the rim itself, where b^2 becomes b^2 + EDGE_CORE^2; inside an exponential decay.
    Continuous, largest on the rim. The square is this model's choice: aloof excitation of a face or rim that is uniform
    along itself goes as K0(2 omega b / v) and reaches twice as far (Garcia de Abajo, Rev. Mod. Phys. 82, 209 (2010)).
    """
    from scipy.special import k0e

    distance = np.asarray(distance, float)
    rate = 2 * mode.energy * ELEMENTARY_CHARGE / (REDUCED_PLANCK * speed(high_tension))

    def squared(impact: np.ndarray) -> np.ndarray:
        argument = rate * np.sqrt(np.maximum(impact, 0.0) ** 2 + EDGE_CORE ** 2)
        return (k0e(argument) * np.exp(-argument)) ** 2

    outside = squared(distance) / squared(np.zeros(()))
    return mode.probability * np.where(distance >= 0, outside, np.exp(np.minimum(distance, 0.0) / mode.penetration))


def delocalisation_length(energy: float, high_tension: float) -> float:
    """v / (2 omega) [m]: scale of the aloof decay at an energy loss [eV]."""
    return REDUCED_PLANCK * speed(high_tension) / (2 * energy * ELEMENTARY_CHARGE)


def edge_loss(mode: EdgeMode, energies: np.ndarray) -> np.ndarray:
    """Spectrum [1/eV] of the rim's plasmon, of unit area: a Lorentzian without its tail below zero."""
    half = 0.5 * mode.width
    area = 0.5 + math.atan(mode.energy / half) / math.pi
    return half / math.pi / ((energies - mode.energy) ** 2 + half ** 2) / area
