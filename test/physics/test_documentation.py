"""What the pages about the virtual microscope show runs as it stands."""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np

from edgetem_nodes.physics.specimens import catalogue

DOCS = Path(__file__).resolve().parents[2] / "docs"


def python_of(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_virtual_microscope_without_a_graph():
    names = {}
    for code in python_of("virtual_microscope.md"):
        exec(compile(code, "virtual_microscope.md", "exec"), names)  # noqa: S102  (our own page)
    assert names["patterns"].shape == (10, 64, 64) and names["patterns"].sum() > 0
    assert names["strain"].shape == (64, 64) and np.abs(names["strain"]).max() > 0.01


def test_a_specimen_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_specimens.py").write_text(python_of("specimens.md")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    name, value = re.search(r'^(chain) = "(.*)"$', (DOCS / "specimens.md").read_text(), re.MULTILINE).groups()
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [EntryPoint(name, value, group)])
    specimen = catalogue.make_specimen(name, (10e-9, 10e-9), 0)
    from edgetem_nodes.physics.diffraction import Diffraction
    from edgetem_nodes.physics.optics import Camera, Probe

    on, beside = Diffraction(specimen, Probe(80e3, 20e-3), Camera(64, 1e-3)).patterns(np.array([[5e-9, 4e-9], [2e-9, 4e-9]]))
    assert np.abs(on - beside).sum() > 2e-3


def test_every_key_that_the_pages_show_exists():
    import yaml

    from edgetem_nodes.graph.configuration import declared
    from edgetem_nodes.graph.instrument import Instrument

    known = declared(Instrument)
    text = re.search(r"```yaml\n(.*?)```", (DOCS / "virtual_microscope.md").read_text(), re.DOTALL).group(1)

    def check(mapping, prefix=""):
        for key, value in mapping.items():
            if isinstance(value, dict):
                check(value, f"{prefix}{key}.")
            else:
                assert prefix + key in known, prefix + key
    check(yaml.safe_load(text)["/**"]["ros__parameters"]["instrument"])
