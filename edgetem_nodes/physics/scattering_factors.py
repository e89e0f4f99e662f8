"""Electron scattering factors of free atoms (Lobato & Van Dyck, Acta Cryst. A70, 636, 2014; doi 10.1107/S205327331401643X).

f(k) = sum_i a_i (2 + b_i k^2) / (1 + b_i k^2)^2, k = 2 sin(theta/2) / wavelength, first Born approximation with the rest
mass; a in Angstrom, b in Angstrom^2. For large k it has the Rutherford form, so it is good for HAADF angles too.
"""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.electrons import ELECTRON_MASS, ELEMENTARY_CHARGE, PLANCK, lorentz_factor, wavelength

SYMBOLS = {"B": 5, "C": 6, "N": 7, "S": 16, "Se": 34, "Mo": 42, "W": 74}
"""Atomic numbers of the elements in the table."""

_TABLE = {
    5: ((1.47279248639329, -0.401933042199387, 0.305998956982689, 0.0196144217173168, 0.0009771771060882),
        (3.74974048281819, 0.588066536139673, 0.515639613103011, 0.121377570080603, 0.0680982412160313)),
    6: ((124.466088621343, -220.352857078963, 195.235352280479, -98.1079361269799, 0.0142023041213623),
        (2.42120849256005, 2.30537943752425, 2.04851932106564, 1.93352552917547, 0.0768976818478339)),
    7: ((58.1327150702556, -147.542409087812, 130.143065649639, -39.6195674084154, 0.010595776333148),
        (1.70044856413471, 1.5590385260174, 1.41576827473146, 1.27841818205455, 0.0565587798474805)),
    16: ((2.67971415610199, -0.474252822230755, 0.514835948989687, -0.0958360024990722, 0.00248871963818935),
         (3.06889121199971, 0.378216702185809, 0.188721811902548, 0.0923370590031494, 0.0111920877241144)),
    34: ((3.64905047801926, -43.6851662221238, 43.6920288601154, 0.00844902284199144, 3.7861147411e-05),
         (3.25043267112593, 0.609666201650289, 0.596971300802123, 0.0148554512740362, 0.00133625587356563)),
    42: ((2.83105968432053, 2.34858137489674, 0.245105888429696, 0.00235282108218515, 2.3127083834e-07),
         (10.435719575895, 1.60482868674597, 0.131696934774606, 0.00554977901383345, 0.0002227474637649)),
    74: ((3.97629715819077, 1.52292684257341, 0.797706246390561, 0.0213666741558685, 0.00010307868938572),
         (6.29685779228774, 1.11289951157691, 0.231057040678473, 0.0151013545567204, 0.00047468247710503)),
}

_ANGSTROM = 1e-10


def scattering_factor(atomic_number: int, spatial_frequency: np.ndarray) -> np.ndarray:
    """Electron scattering factor [m] at spatial frequencies [1/m], same shape, float64.

    Raises
    ------
    ValueError : the element is not in the table.
    """
    if atomic_number not in _TABLE:
        raise ValueError(f"no scattering factor for atomic number {atomic_number}: the table has "
                         + ", ".join(f"{name} ({number})" for name, number in SYMBOLS.items()))
    square = (np.asarray(spatial_frequency, float) * _ANGSTROM) ** 2
    total = np.zeros_like(square)
    for a, b in zip(*_TABLE[atomic_number], strict=True):
        total += a * (2 + b * square) / (1 + b * square) ** 2
    return total * _ANGSTROM


def potential_spectrum(atomic_number: int, spatial_frequency: np.ndarray) -> np.ndarray:
    """Fourier transform of an atom's projected potential [V m^3] at spatial frequencies [1/m]: h^2 / (2 pi m0 e) f(k)."""
    constant = PLANCK ** 2 / (2 * np.pi * ELECTRON_MASS * ELEMENTARY_CHARGE)
    return constant * scattering_factor(atomic_number, spatial_frequency)


def annular_cross_section(atomic_number: int, high_tension: float, inner_angle: float, outer_angle: float) -> float:
    """Elastic cross-section [m^2] into an annulus between two scattering angles [rad], high tension [V].

    The integral of |gamma f|^2 over the solid angle: the incoherent signal of one atom in an annular dark-field detector.
    """
    angles = np.linspace(inner_angle, outer_angle, 513)
    amplitude = lorentz_factor(high_tension) * scattering_factor(
        atomic_number, 2 * np.sin(angles / 2) / wavelength(high_tension))
    return float(np.trapezoid(amplitude ** 2 * 2 * np.pi * np.sin(angles), angles))
