"""Starting and ending a local Dask cluster in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import edgetem_nodes
from edgetem_nodes.graph.environment import THREAD_VARIABLES
from edgetem_nodes.hpc_bridge.parameters import LocalCluster

END_LIMIT = 3.0
"""[s] for an orderly end of the host, after which it is killed; its workers end with it."""


class LocalSession:
    """A running local cluster and a Dask client of it.

    Attributes: `client`, asynchronous Dask client; `lost`, a task that ends when the cluster is gone; `transport`, "tls" or
    "tcp"; `process`, the host.
    """

    def __init__(self, process: asyncio.subprocess.Process, client: Any, transport: str) -> None:
        self.process = process
        self.client = client
        self.transport = transport
        self.lost = asyncio.ensure_future(self._wait())

    async def _wait(self) -> int:
        code = await self.process.wait()
        if self.client.status != "closed":
            await self._close_client()
        return code

    async def close(self) -> None:
        """Close the client, end the host, kill what has not ended in time."""
        await self._close_client()
        await _end(self.process)
        await self.lost

    async def _close_client(self) -> None:
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError, OSError):
            await asyncio.wait_for(self.client.close(), END_LIMIT)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.stdin.close()
        try:
            await asyncio.wait_for(asyncio.shield(process.wait()), END_LIMIT)
        except (TimeoutError, asyncio.TimeoutError):
            process.kill()
            await process.wait()


async def connect(parameters: LocalCluster) -> LocalSession:
    """Start the cluster and connect to it. Takes some seconds; importing Dask is part of it.

    Raises
    ------
    ConnectionError : the host ended or said nothing understandable.
    """
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "EDGETEM_PARENT": str(os.getpid())}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(edgetem_nodes.__file__).parents[1]),
                                                              environment.get("PYTHONPATH")]))
    options = {"workers": parameters.workers, "memory_mb": parameters.memory_mb, "niceness": parameters.niceness}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgetem_nodes.hpc_bridge.cluster_host", json.dumps(options), env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True)
    try:
        line, client_class = await asyncio.gather(process.stdout.readline(), asyncio.to_thread(_import_client))
        if not line:
            raise ConnectionError(f"the local cluster ended with code {await process.wait()} before it was up; its last "
                                  "words are in the log above")
        told = json.loads(line)
        security = None
        if told["tls"]:
            from distributed import Security
            security = Security(tls_ca_file=told["tls"]["ca"], tls_client_cert=told["tls"]["certificate"],
                                tls_client_key=told["tls"]["key"], require_encryption=True)
        client = await client_class(told["scheduler"], asynchronous=True, security=security, set_as_default=False,
                                    name="hpc_bridge")
    except BaseException:
        await _end(process)
        raise
    return LocalSession(process, client, "tls" if told["tls"] else "tcp")


def _import_client() -> type:
    """Dask's client. Its own log is silenced: the bridge reports a lost cluster in one sentence."""
    from distributed import Client

    for name in ("distributed.client", "distributed.comm"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return Client
