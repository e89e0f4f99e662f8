"""Parameters changed in mid-run: checked as a configuration is, and said in a way that gives them again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetem_nodes.featurizer.change import changeable, changed, difference
from edgetem_nodes.featurizer.parameters import EelsEdge, Parameters


def test_what_is_not_named_keeps_its_value_and_the_present_ones_stay_as_they_are():
    present = Parameters(scalarizer="eels_edge", label="Cu-L", eels_edge=EelsEdge([700.0, 900.0], [930.0, 1000.0]))
    after = changed(present, "", '{"eels_edge.signal_eV": [930, 1010], "counts_per_electron": 4}')
    assert after.eels_edge == EelsEdge([700.0, 900.0], [930.0, 1010.0])
    assert (after.scalarizer, after.label, after.counts_per_electron) == ("eels_edge", "Cu-L", 4.0)
    assert present.eels_edge.signal_eV == [930.0, 1000.0] and present.counts_per_electron == 1.0
    assert changed(present, "", "") == present


def test_another_scalarizer_does_not_inherit_label_and_settings():
    present = Parameters(scalarizer="mine", label="Cu-L", settings='{"order": 2}')
    after = changed(present, "lattice", "")
    assert (after.label, after.settings) == ("", "")
    assert changed(present, "mine", '{"label": "x"}').settings == '{"order": 2}'
    assert json.loads(changed(present, "other", '{"settings": {"b": 1, "a": [2]}}').settings) == {"a": [2], "b": 1}


def test_nested_objects_are_joined_by_dots_as_in_the_yaml():
    dotted, nested = '{"lattice.component": "exx"}', '{"lattice": {"component": "exx"}}'
    assert changed(Parameters(), "", dotted) == changed(Parameters(), "", nested)


@pytest.mark.parametrize(("settings", "message"), [
    ('{"output": "/"}', "'output' cannot be changed in mid-run"),
    ('{"instrument.high_tension_kV": 200}', "cannot be changed in mid-run"),
    ('{"eels_edge.signal_ev": [1, 2]}', r"did you mean 'eels_edge.signal_eV'\?"),
    ('{"eels_peak.fit_eV": "wide"}', "is not of type float"),
    ('{"counts_per_electron": NaN}', "is not finite"),
    ('{"lattice.shells": 9}', "above the largest allowed value, 4"),
    ('{"eels_peak": {"fit_eV": 1, "fit_eV": 2}}', "is given twice"),
    ("3", "must be a JSON object"),
])
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        changed(Parameters(), "", settings)


NAMES = [name for name, declared in changeable().items() if declared.type is float]


@settings(deadline=None)
@given(st.sampled_from(["lattice", "eels_edge", "virtual_detector"]), st.sampled_from(["", "Cu-L"]),
       st.dictionaries(st.sampled_from(NAMES), st.floats(0.5, 1.0), max_size=5), st.sampled_from(["", "Cu-L", "Fe"]))
def test_the_difference_gives_the_same_parameters_again(scalarizer, first, values, second):
    allowed = {name: value for name, value in values.items()
               if (changeable()[name].rule.minimum or 0) <= value <= (changeable()[name].rule.maximum or 1)}
    start = Parameters(label=first)
    after = changed(start, scalarizer, json.dumps({**allowed, "label": second}))
    assert changed(start, after.scalarizer, difference(start, after)) == after
    assert difference(start, start) == "{}"
