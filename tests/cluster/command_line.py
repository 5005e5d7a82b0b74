"""A cluster of hosts on this machine, to use by hand.

    python -m tests.cluster.command_line up          # start hosts h1, h2, h3 and a laptop
    python -m tests.cluster.command_line run h1 CMD…
    python -m tests.cluster.command_line status
    python -m tests.cluster.command_line down

The hosts stay until they are taken down.
"""

from __future__ import annotations

import argparse
import sys

from tests.cluster.host import RUNS, Unavailable
from tests.cluster.namespaces import Namespaces, clean, clean_dead, hosts_of, kept


def print_status() -> None:
    """Print the clusters that stay, and how to use them."""
    if not kept():
        print("no cluster; `make cluster-up` starts one")
    for name in kept():
        for host in hosts_of(name):
            on = "on" if host.on else "off"
            daemon = "" if host.name == "laptop" else f"  DOCKER_HOST={host.docker_host}"
            print(f"{host.name:8} {host.address:13} {on:4}{daemon}")
        print(f"log in:         ssh -F {RUNS / name}/ssh_config h1")
        print("run a command:  .venv/bin/python -m tests.cluster.command_line run h1 COMMAND...   (laptop, too)")
        print("take it down:   make cluster-down")


def main() -> int:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.command_line",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start a cluster that stays").add_argument("count", nargs="?", type=int, default=3)
    commands.add_parser("down", help="remove it")
    commands.add_parser("status", help="show it")
    run = commands.add_parser("run", help="run a command on one of its hosts")
    run.add_argument("host")
    run.add_argument("cmd", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command == "up" and not kept():
        try:
            Namespaces(options.count, keep=True).__enter__()
        except Unavailable as problem:
            print(f"cluster: {problem}", file=sys.stderr)
            return 1
    if options.command in ("up", "status"):
        print_status()
    elif options.command == "down":
        clean_dead()
        for name in kept():
            clean(name)
    else:
        hosts = {host.name: host for name in kept() for host in hosts_of(name)}
        if options.host not in hosts:
            print(f"cluster: no host {options.host}; there are: {' '.join(hosts) or 'none'}", file=sys.stderr)
            return 1
        with hosts[options.host].popen(options.cmd or ["bash", "--login"]) as process:
            return int(process.wait())
    return 0


if __name__ == "__main__":
    sys.exit(main())
