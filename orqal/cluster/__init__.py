"""Start and stop Orqal: what `orqal up`, `orqal join` and `cluster.yaml` call.

head.py       the head: Ray, the Scheduler, REST, and its own Docker daemon
member.py     further hosts: a Ray node for each Docker daemon
node.py       how a Ray node is started for a daemon, and with which settings of Ray
processes.py  the cluster's processes on this machine: found by a mark, run, stopped
stores.py     the store: whether it can be opened, and a copy of all jobs to another one
backups.py    the store into a file that can be put away, and back
examine.py    what is wrong with this machine, while the API does not answer
driver.py     what is done inside the Ray cluster, in a process of its own
"""

from orqal.cluster.backups import restore
from orqal.cluster.backups import save as backup
from orqal.cluster.head import down, environment, up
from orqal.cluster.head import stay as stay_up
from orqal.cluster.join import join, leave
from orqal.cluster.join import stay as stay_joined
from orqal.cluster.local_checkup import alone as examine
from orqal.cluster.node import resources
from orqal.cluster.processes import ClusterError
from orqal.cluster.stores import copy_store

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
