"""The cluster: jobs survive killed workers and a killed cluster, end when cancelled, leave no process behind."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time

import psutil
import pytest
from sheet_structures import strained

from edgetem_nodes.hpc_bridge import cluster, energetics, engines, local
from edgetem_nodes.hpc_bridge.parameters import Calculation, LocalCluster

OPTIONS = LocalCluster(workers=2, niceness=0, start_after_s=-1.0)
LIMIT = 60.0


def plan(calculation=None, **strain):
    return energetics.plan(strained(**strain), "tblite", calculation or Calculation(reference=False), 0.0, 1e-9)


def long_plan():
    """Five steps of a tenth of a second, so that there is a middle."""
    return plan(Calculation(reference=False, max_force_ev_per_angstrom=1e-4, max_steps=5), rattle=0.08)


@pytest.fixture(scope="module", autouse=True)
def importable_by_workers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")])))
        yield


@pytest.fixture(scope="module")
def shared():
    made = cluster.Cluster(lambda: local.connect(OPTIONS))
    yield made
    made.close()


@pytest.fixture
def fresh():
    made = cluster.Cluster(lambda: local.connect(OPTIONS), time_limit=30.0)
    yield made
    made.close()


def host(running):
    return running._session.result().process.pid


def submit(running, work):
    """The job, and a queue of its steps."""
    steps = queue.Queue()
    return running.submit(energetics.compute, work, None, None, None, None, step=lambda *values: steps.put(values)), steps


def test_a_job_gives_what_a_direct_call_gives_and_streams_its_steps(shared):
    job, steps = submit(shared, long_plan())
    (result, wall_time, where), direct = job.future.result(LIMIT), energetics.compute(long_plan(), None)
    assert result.energy == pytest.approx(direct.energy, rel=1e-12) and result.steps == direct.steps == 5
    numbers = [steps.get(timeout=LIMIT)[0] for _ in range(result.steps)]
    assert numbers == list(range(result.steps)) and wall_time > 0 and where.endswith(f":{job.process}")


def test_a_killed_worker_is_replaced_and_its_job_answers(shared):
    jobs = [submit(shared, long_plan()) for _ in range(2)]
    jobs[0][1].get(timeout=LIMIT)
    victim = jobs[0][0].process
    os.kill(victim, 9)
    results = [job.future.result(LIMIT)[0] for job, _ in jobs]
    assert len({round(result.energy * 1e25) for result in results}) == 1
    assert jobs[0][0].starts == 2 and jobs[0][0].process != victim


def test_a_cancelled_job_ends_and_the_next_one_runs(shared):
    before = shared.counts()
    job, steps = submit(shared, plan(Calculation(reference=False, max_force_ev_per_angstrom=1e-4), size=5, rattle=0.08))
    steps.get(timeout=LIMIT)
    shared.cancel(job)
    with pytest.raises(engines.Canceled):
        job.future.result(LIMIT)
    assert submit(shared, plan())[0].future.result(LIMIT)[0].converged
    after = shared.counts()
    assert (after["done"], after["failed"]) == (before["done"] + 1, before["failed"] + 1)
    assert after["queued"] == after["running"] == 0


def test_a_job_that_waits_can_be_cancelled(shared):
    running = [submit(shared, long_plan())[0] for _ in range(2)]
    waiting = submit(shared, long_plan())[0]
    shared.cancel(waiting)
    with pytest.raises(engines.Canceled):
        waiting.future.result(LIMIT)
    assert [job.future.result(LIMIT)[0].steps for job in running] == [5, 5]


def test_a_step_that_does_not_end_is_ended_with_its_worker(fresh, monkeypatch):
    monkeypatch.setattr(cluster, "CANCEL_GRACE", 0.5)
    steps = queue.Queue()
    job = fresh.submit(time_wasted, 300.0, step=lambda *values: steps.put(values))
    steps.get(timeout=LIMIT)
    fresh.cancel(job)
    with pytest.raises(engines.Canceled):
        job.future.result(LIMIT)
    assert submit(fresh, plan())[0].future.result(LIMIT)[0].converged


def test_a_job_past_its_time_limit_is_ended(monkeypatch):
    monkeypatch.setattr(cluster, "CANCEL_GRACE", 0.2)
    short = cluster.Cluster(lambda: local.connect(OPTIONS), time_limit=0.3)
    try:
        with pytest.raises(cluster.TimeLimit, match=r"longer than 0.3 s"):
            short.submit(time_wasted, 300.0).future.result(LIMIT)
    finally:
        short.close()


def time_wasted(seconds, step, _canceled):
    """A step that takes no notice of a cancel."""
    step(0, 0.0, 0.0)
    time.sleep(seconds)


def failing(_step, _canceled):
    raise engines.EngineError("no self-consistency")


def test_a_failed_job_harms_no_other(shared):
    with pytest.raises(engines.EngineError, match="no self-consistency"):
        shared.submit(failing).future.result(LIMIT)
    assert submit(shared, plan())[0].future.result(LIMIT)[0].converged


def deadly(_step, _canceled):
    os._exit(1)


def test_a_job_that_kills_every_worker_is_reported(fresh):
    with pytest.raises(cluster.ClusterLost, match="workers died on this job"):
        fresh.submit(deadly).future.result(LIMIT)
    assert submit(fresh, plan())[0].future.result(LIMIT)[0].converged


# distributed leaves the socket of a connection that was refused to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_cluster_is_started_again_and_nothing_is_lost(fresh):
    jobs = [submit(fresh, long_plan()) for _ in range(3)]
    jobs[0][1].get(timeout=LIMIT)
    first = host(fresh)
    os.kill(first, 9)
    assert [job.future.result(LIMIT)[0].steps for job, _ in jobs] == [5, 5, 5]
    assert host(fresh) != first


def test_a_cluster_that_does_not_start_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    broken = cluster.Cluster(lambda: local.connect(OPTIONS))
    with pytest.raises(cluster.ClusterLost, match="did not start: the local cluster ended with code 1"):
        broken.submit(energetics.compute, plan(), None, None, None, None).future.result(LIMIT)
    broken.close()


def test_closing_ends_every_process_and_answers_every_job(fresh):
    job, steps = submit(fresh, long_plan())
    steps.get(timeout=LIMIT)
    processes = [psutil.Process(host(fresh)), *psutil.Process(host(fresh)).children(recursive=True)]
    assert len(processes) >= 3
    begin = time.monotonic()
    fresh.close()
    assert time.monotonic() - begin < 8
    with pytest.raises(engines.Canceled):
        job.future.result(0)
    assert psutil.wait_procs(processes, 5)[1] == []


def test_a_killed_bridge_leaves_no_process_behind():
    code = ("import time; from edgetem_nodes.hpc_bridge import cluster, local; "
            "from edgetem_nodes.hpc_bridge.parameters import LocalCluster; "
            "made = cluster.Cluster(lambda: local.connect(LocalCluster()), log=lambda text: print(text, flush=True)); "
            "made.start(); time.sleep(600)")
    bridge = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert "cluster up" in bridge.stdout.readline()
    processes = psutil.Process(bridge.pid).children(recursive=True)
    bridge.kill()
    bridge.wait()
    bridge.stdout.close()
    assert len(processes) >= 3 and psutil.wait_procs(processes, 10)[1] == []


def test_it_listens_on_the_loopback_only_and_shows_no_dashboard(shared):
    submit(shared, plan())[0].future.result(LIMIT)
    processes = [psutil.Process(host(shared)), *psutil.Process(host(shared)).children(recursive=True)]
    listening = [connection.laddr for process in processes for connection in process.net_connections()
                 if connection.status == psutil.CONN_LISTEN]
    assert listening and {address.ip for address in listening} == {"127.0.0.1"}
    assert all(address.port != 8787 for address in listening)


def test_the_bridge_imports_neither_dask_nor_engines_nor_torch():
    code = ("import sys, edgetem_nodes.hpc_bridge.node; "
            "print([name for name in ('dask', 'distributed', 'ase', 'tblite', 'torch') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
