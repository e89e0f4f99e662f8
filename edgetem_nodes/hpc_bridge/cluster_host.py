"""A process that holds a local Dask cluster: scheduler, nannies and worker processes, on the loopback address only.

`python -m edgetem_nodes.hpc_bridge.cluster_host JSON`: prints one line of JSON (`scheduler`, `tls`), then runs until its
standard input ends, which also happens when whoever started it dies. A process of its own, because workers import the
main module of the process that starts them, and because Dask's loop then costs the node nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

from edgetem_nodes.graph.environment import THREAD_VARIABLES
from edgetem_nodes.hpc_bridge.processes import end_with_parent
from edgetem_nodes.hpc_bridge.worker import NICENESS

LOOPBACK = "127.0.0.1"


async def host(workers: int, memory_mb: int, niceness: int) -> None:
    """Start the cluster, say where it is, end it when standard input ends."""
    import dask
    from distributed import LocalCluster, Security

    encrypted = importlib.util.find_spec("cryptography") is not None
    security = Security.temporary() if encrypted else None
    one_thread = dict.fromkeys(THREAD_VARIABLES, "1")
    dask.config.set({
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": 3,
        "distributed.nanny.pre-spawn-environ": {**one_thread, "MALLOC_TRIM_THRESHOLD_": "65536"},
        "distributed.admin.system-monitor.interval": "2s",
        "distributed.admin.system-monitor.gil.enabled": False,
        "distributed.admin.tick.interval": "1s",
        "distributed.worker.memory.monitor-interval": "500ms",
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.scheduler.work-stealing-interval": "1s",
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    })
    # Dask itself removes from this folder what killed workers left behind.
    scratch = Path(tempfile.gettempdir()) / f"edgetem-{os.getuid()}"
    scratch.mkdir(mode=0o700, exist_ok=True)
    async with LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, host=LOOPBACK, worker_dashboard_address=None,
            scheduler_kwargs={"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"},
            protocol="tls://" if encrypted else "tcp://", security=security,
            memory_limit=memory_mb * 1_000_000, local_directory=str(scratch), asynchronous=True,
            preload=["edgetem_nodes.hpc_bridge.worker"], env={NICENESS: str(niceness), **one_thread}) as cluster:
        tls = None
        if encrypted:
            tls = {"ca": security.tls_ca_file, "certificate": security.tls_client_cert, "key": security.tls_client_key}
        print(json.dumps({"scheduler": cluster.scheduler_address, "tls": tls}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Entry point."""
    end_with_parent(int(os.environ["EDGETEM_PARENT"]))
    asyncio.run(host(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
