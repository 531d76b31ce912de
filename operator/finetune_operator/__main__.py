"""`python -m finetune_operator`: flags and environment become Settings, signals become a stop.

Prints one JSON line with the addresses that it listens on. Exit code 0 after SIGTERM or SIGINT.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import kopf

from finetune_api.names import MANAGER
from finetune_operator.app import Operator
from finetune_operator.cluster import Cluster
from finetune_operator.handlers import Frame
from finetune_operator.lease import Lease
from finetune_operator.serving import Servers
from finetune_operator.settings import Settings

logger = logging.getLogger("finetune_operator")

_STOP_S = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal."""
    parser = argparse.ArgumentParser(prog="finetune_operator", description=__doc__)
    parser.add_argument(
        "--kubeconfig", help="kubeconfig file; the pod's own account, else the default file, when absent"
    )
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument("--lease-namespace", default="", help="hold a Lease there before acting; for several replicas")
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    parser.add_argument("--progress-ca-file", type=Path, help="PEM of the progress endpoint's certificate authority")
    for each in fields(Settings):
        if each.type in {"str", "float", "int", str, float, int} and each.name != "progress_ca":
            kind = {"str": str, "float": float, "int": int}.get(str(each.type), each.type)
            parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default)
    parser.add_argument("--namespace", action="append", default=[], help="watch this namespace alone; may be repeated")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)
    asyncio.run(_run(options, _settings(options)))
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    simple = {each.name: getattr(options, each.name) for each in fields(Settings) if hasattr(options, each.name)}
    ca = options.progress_ca_file.read_text(encoding="ascii") if options.progress_ca_file else ""
    return Settings(**simple, namespaces=tuple(options.namespace), progress_ca=ca)


async def _run(options: argparse.Namespace, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cluster = await Cluster.load(options.kubeconfig, options.context)
    await cluster.open()
    lease = None
    if options.lease_namespace:
        identity = f"{socket.gethostname()}-{os.getpid()}"
        lease = Lease(cluster, options.lease_namespace, MANAGER, identity)
    operator = Operator(cluster, settings, lease)
    servers = Servers(operator)
    addresses = await servers.start()
    sys.stdout.write(json.dumps(addresses) + "\n")
    sys.stdout.flush()
    tasks = operator.tasks()
    if lease is not None:
        tasks.append(asyncio.create_task(lease.run()))
    frame = _frame(operator, cluster)
    # kopf's own first list costs seconds of CPU with 10,000 jobs; ours is done first, and jobs are worked on meanwhile.
    started = asyncio.create_task(_start_after_list(operator, frame))
    # Objects of the start live for good; collecting over them costs CPU at every full collection.
    gc.freeze()
    for task in (*tasks, started):
        task.add_done_callback(lambda done: _end_with(done, stop))
    await stop.wait()
    logger.info("stopping")
    for task in (*tasks, started):
        task.cancel()
    try:
        async with asyncio.timeout(_STOP_S):
            await asyncio.gather(*tasks, started, return_exceptions=True)
            if lease is not None:
                await lease.release()
            await servers.stop()
            await cluster.close()
    except TimeoutError:
        logger.warning("some requests did not end in time")
    frame.stop()


def _end_with(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Stop the process when a part of it died: a half-working operator would look healthy."""
    if not task.cancelled() and task.exception() is not None:
        logger.critical("internal: a part of the operator ended", exc_info=task.exception())
        stop.set()


async def _start_after_list(operator: Operator, frame: Frame) -> None:
    await operator.listed()
    frame.start()


def _frame(operator: Operator, cluster: Cluster) -> Frame:
    loop = asyncio.get_running_loop()

    def login() -> kopf.ConnectionInfo:
        configuration = cluster.configuration
        authorization = asyncio.run_coroutine_threadsafe(cluster.token(), loop).result(10) or ""
        scheme, _, token = authorization.rpartition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme.title() or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    def served() -> bool:
        return asyncio.run_coroutine_threadsafe(operator.served(), loop).result(40)

    return Frame(operator.settings, login, served, operator.receive, operator.watch_restarted)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # A kopf thread that hangs in a request must not hold the exit.
    os._exit(code)
