"""Energies of the main X-ray lines of the elements."""

from __future__ import annotations

from functools import cache

FAMILIES = ("Ka", "Kb", "La", "Lb", "Ma")

_TABLE = """
Be 108 - - - -; B 183 - - - -; C 277 - - - -; N 392 - - - -; O 525 - - - -; F 677 - - - -; Ne 849 - - - -;
Na 1040 - - - -; Mg 1254 1302 - - -; Al 1486 1557 - - -; Si 1740 1837 - - -; P 2010 2139 - - -; S 2309 2465 - - -;
Cl 2621 2812 - - -; Ar 2957 3190 - - -; K 3313 3590 - - -; Ca 3691 4013 - - -; Sc 4092 4464 - - -;
Ti 4510 4933 452 458 -; V 4950 5428 510 518 -; Cr 5412 5947 572 582 -; Mn 5897 6492 637 648 -; Fe 6401 7059 705 718 -;
Co 6926 7649 775 790 -; Ni 7474 8266 849 866 -; Cu 8040 8903 928 947 -; Zn 8629 9569 1012 1035 -;
Ga 9242 10266 1098 1124 -; Ge 9875 10981 1188 1218 -; As 10531 11724 1282 1317 -; Se 11210 12495 1379 1419 -;
Br 11908 13290 1481 1526 -; Kr 12630 14109 1584 1636 -; Rb 13376 14958 1692 1751 -; Sr 14142 15831 1806 1871 -;
Y 14932 16735 1924 1998 -; Zr 15746 17664 2044 2126 -; Nb 16583 18620 2168 2260 -; Mo 17444 19600 2292 2394 -;
Tc 18327 20616 2423 2535 -; Ru 19234 21648 2558 2683 -; Rh 20167 22715 2696 2834 -; Pd 21123 23808 2837 2990 -;
Ag 22103 24930 2982 3150 -; Cd 23107 26081 3132 3315 -; In 24138 27262 3285 3487 -; Sn 25192 28471 3443 3663 -;
Sb 26272 29709 3603 3842 -; Te 27378 30976 3767 4029 -; I 28509 32275 3937 4221 -; Xe 29662 33599 4108 4418 -;
Cs 30851 34959 4284 4618 -; Ba 32061 36353 4465 4828 -; La 33298 37769 4645 5038 836; Ce 34564 39226 4837 5262 884;
Pr 35859 40717 5033 5492 927; Nd 37179 42236 5225 5719 979; Pm 38528 43788 5429 5961 1023; Sm 39906 45373 5630 6201 1078;
Eu 41314 46993 5846 6458 1122; Gd 42751 48646 6050 6708 1181; Tb 44218 50331 6269 6975 1233;
Dy 45715 52056 6494 7248 1284; Ho 47243 53815 6716 7526 1342; Er 48802 55608 6945 7811 1404;
Tm 50392 57435 7175 8102 1463; Yb 52014 59306 7411 8402 1526; Lu 53669 61208 7650 8710 1580;
Hf 55362 63156 7894 9023 1646; Ta 57078 65128 8140 9343 1712; W 58830 67144 8392 9672 1775;
Re 60620 69201 8645 10010 1840; Os 62445 71300 8904 10354 1907; Ir 64305 73438 9167 10708 1976;
Pt 66201 75619 9434 11071 2048; Au 68136 77843 9704 11443 2118; Hg 70105 80107 9980 11824 2191;
Tl 72115 82416 10259 12213 2267; Pb 74164 84772 10541 12614 2342; Bi 76252 87171 10828 13023 2418;
Po 78382 89614 11119 13446 2499; At 80551 92104 11415 13876 2577; Rn 82762 94653 11714 14315 2654;
Fr 85021 97246 12017 14771 2732; Ra 87328 99890 12325 15236 2806; Ac 89665 102589 12637 15713 2900;
Th 92060 105335 12952 16202 2990; Pa 94501 108142 13274 16703 3071; U 96992 111000 13596 17220 3164
"""
"""Element, then K-alpha, K-beta, L-alpha, L-beta1, M-alpha [eV], rounded to 1 eV: W. T. Elam, B. D. Ravel and J. R. Sieber,
Radiation Physics and Chemistry 63, 121 (2002). K-alpha and L-alpha are means of their two lines, K-beta of lines 1 and 3,
weighted with their intensities: energy-dispersive detectors do not part them."""


@cache
def line_energies() -> dict[str, float]:
    """Energy [eV] of every line by its name, an element and a family: "Fe_Ka"."""
    lines = {}
    for entry in _TABLE.replace("\n", " ").split(";"):
        element, *energies = entry.split()
        lines.update({f"{element}_{family}": float(energy) for family, energy in zip(FAMILIES, energies, strict=True)
                      if energy != "-"})
    return lines


def line_energy(line: str) -> float:
    """Energy [eV] of a line such as "Fe_Ka".

    Raises
    ------
    ValueError : there is no such line.
    """
    lines = line_energies()
    if line not in lines:
        element = line.split("_")[0]
        own = [name for name in lines if name.split("_")[0] == element]
        raise ValueError(f"X-ray line {line!r} is not known; " + (f"{element} has {', '.join(own)}" if own else
                         "lines are named by an element, Be to U, and a family, e.g. Fe_Ka"))
    return lines[line]
