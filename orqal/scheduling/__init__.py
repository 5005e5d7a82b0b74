"""Pure decisions: which job is next, where it runs, and what follows from what happens to it.

    waiting jobs --push--> Queue: one Line per kind and owner
                              |
              place(queue, hosts, now)  ->  placements, taken off the queue
                              |
              Host: what it has, what is in use

No Ray, no Docker, no clock, no I/O: the time is an argument, so that a scene can be written down as a test. *Line*:
waiting jobs of one user and one shape, first come first served. *Shape*: what a job asks for. *Placement*: a job, its
host, and the resources that it gets there. A decision looks at lines and hosts, never at single jobs, so its cost does
not grow with the length of the queue.

    queue.py      lines of waiting jobs
    placement.py  which jobs start now, and where
    demand.py     the hosts that an autoscaler should start
    lifecycle.py  a job's phases, and what each event leads to
    probation.py  whether a host can start jobs at all
    retries.py    whether a job is tried again
    cache.py      whether a job is reused for another one
"""

from orqal.scheduling.demand import NodeType, demand, node_types
from orqal.scheduling.placement import Host, Placement, impossible, place, why_not
from orqal.scheduling.queue import Line, LineKey, Queue

__all__ = [
    "Host",
    "Line",
    "LineKey",
    "NodeType",
    "Placement",
    "Queue",
    "demand",
    "impossible",
    "node_types",
    "place",
    "why_not",
]
