"""Start and stop Orqal: what `orqal up`, `orqal join` and `cluster.yaml` call.

head.py       the head: Ray, the Scheduler, REST, and its own Docker daemon
member.py     further hosts: a Ray node for each Docker daemon
node.py       how a Ray node is started for a daemon, and with which settings of Ray
processes.py  the cluster's processes on this machine: found by a mark, run, stopped
driver.py     what is done inside the Ray cluster, in a process of its own
"""

from orqal.cluster.head import down, environment, up
from orqal.cluster.member import join, leave
from orqal.cluster.node import resources
from orqal.cluster.processes import ClusterError

__all__ = ["ClusterError", "down", "environment", "join", "leave", "resources", "up"]
