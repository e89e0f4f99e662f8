"""The process environment: transport sized to the machine, domains nobody else has, nodes that load only what they need."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from collections import namedtuple

import pytest

from edgetem_nodes.graph import environment
from edgetem_nodes.graph.compose import NODES

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "segment"), [
    (64 << 20, 0), (200 << 20, 10 << 20), (24 << 30, 128 << 20), (0, 0)])
def test_shared_memory_is_sized_from_what_is_free(monkeypatch, free, segment):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: Usage(free, 0, free))
    size, reason = environment.shared_memory_segment()
    assert size == segment
    assert reason
    if size:
        assert 10 * size <= free


def test_the_profile_is_xml_with_the_segment_size(monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: Usage(1 << 30, 0, 1 << 30))
    root = xml.etree.ElementTree.fromstring(environment.transport_profile().read_text())
    sizes = [element.text for element in root.iter() if element.tag.endswith("segment_size")]
    assert sizes == [str((1 << 30) // 20 // (1 << 20) * (1 << 20))]


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/mine.xml")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    environment.prepare()
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_only_segments_of_dead_processes_are_removed():
    code = ("from edgetem_nodes.graph.environment import prepare; prepare(); import rclpy; rclpy.init(); "
            "node = rclpy.create_node('owner'); print('up', flush=True); input()")

    def segments():
        return {path.name for path in environment.SHARED_MEMORY.glob("fastdds_????????????????")}

    before = segments()
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "up\n"
        own = segments() - before
        assert own, "the node made no segment"
        environment.remove_stale_segments(older_than=0.0)
        assert own <= segments()
    finally:
        owner.kill()
        owner.communicate()
    assert environment.remove_stale_segments(older_than=0.0) >= len(own)
    assert not own & segments()


def test_two_processes_never_share_a_domain():
    code = "from edgetem_nodes.graph.isolation import isolate; print(isolate(), flush=True); input()"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                 for _ in range(4)]
    try:
        domains = [int(process.stdout.readline()) for process in processes]
    finally:
        for process in processes:
            process.communicate("\n")
    assert len({*domains, int(os.environ["ROS_DOMAIN_ID"])}) == 5
    assert all(1 <= domain <= 100 for domain in domains)


@pytest.mark.parametrize("name", [name for name in NODES if name != "planner"])
def test_a_node_that_needs_no_torch_does_not_import_it(name):
    code = ("import json, sys; from edgetem_nodes.graph.compose import node_class; "
            f"node_class({name!r}); print(json.dumps([m for m in ('torch', 'gpytorch') if m in sys.modules]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == []
