"""Pure decisions: which job is next, and where it runs.

    waiting jobs --push--> Queue: one Line per kind and owner
                              |
              place(queue, hosts, now)  ->  placements, taken off the queue
                              |
              Host: what it has, what is in use

No Ray, no Docker, no clock, no I/O: the time comes in as an argument, so that a scene can be written
down as a test. *Line*: waiting jobs of one user and one shape, first come first served. *Shape*: what a
job asks for. *Placement*: a job, its host, and the resources it gets there. A decision looks at lines and
hosts, never at single jobs, so its cost does not grow with the length of the queue.
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
