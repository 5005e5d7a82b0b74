"""Start and stop Orqal on a machine: what `orqal up`, `orqal join` and cluster.yaml call.

head.py            the head: Ray, the Scheduler, the REST API and its own Docker daemon
join.py            further hosts: a Ray node for each Docker daemon
join_check.py      asks a head whether this machine may join it
node.py            how a Ray node is started for a daemon, and with which settings of Ray
processes.py       the cluster's processes on this machine: found by a mark, run, stopped
inside_ray.py      what is done inside the Ray cluster, in a process of its own
store_commands.py  backups, and copies to another store
local_checkup.py   what is wrong with this machine while the API does not answer
"""

from orqal.cluster.head import down, environment, up
from orqal.cluster.head import stay as stay_up
from orqal.cluster.join import join, leave
from orqal.cluster.join import stay as stay_joined
from orqal.cluster.local_checkup import examine
from orqal.cluster.node import resources
from orqal.cluster.processes import ClusterError
from orqal.cluster.store_commands import backup, copy_store, restore

__all__ = [
    "ClusterError",
    "backup",
    "copy_store",
    "down",
    "environment",
    "examine",
    "join",
    "leave",
    "resources",
    "restore",
    "stay_joined",
    "stay_up",
    "up",
]
