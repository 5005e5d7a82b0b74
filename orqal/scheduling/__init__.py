"""Pure decisions: which job is next, where it runs, and what follows from what happens to it.

    waiting jobs --push--> Queue: lines of jobs that are alike, and the order of their users
                              |
              Planner.decide(now)  ->  the jobs that start now, taken off the queue
                              |
    hosts --add, changed--> Room: what each has free, and for which kinds of jobs there is room

No Ray, no Docker, no clock, no I/O: the time is an argument, so that a scene can be written down as a test. A decision
looks at what has changed since the last one, never at single jobs, so its cost does not grow with the length of the
queue, and hardly with the number of hosts.

    keys.py       what jobs have in common that wait in one line
    host.py       a host as decisions see it
    room.py       the index of what the hosts have free
    queue.py      lines of waiting jobs
    shares.py     what each user has and has had
    limits.py     limits that are counted by name
    planner.py    which jobs start now, and where
    outlook.py    when a host will have room, and which jobs would have to stop for that
    standing.py   where a waiting job stands
    demand.py     the hosts that an autoscaler should start
    dependencies.py  which jobs wait for other jobs
    lifecycle.py  a job's phases, and what each event leads to
    breaker.py    whether a host breaks the jobs that it starts
    probation.py  whether a host can start jobs at all
    canary.py     whether a large batch goes on after its first jobs
    forecast.py   when a batch will have ended
    usage.py      what jobs have used, as far as earlier ones tell
    retries.py    whether a job is tried again
    cache.py      whether a job is reused for another one
"""

from orqal.scheduling.demand import NodeType, demand, node_types
from orqal.scheduling.host import Host, impossible, why_not
from orqal.scheduling.keys import LineKey
from orqal.scheduling.planner import Placement, Planner, Policy
from orqal.scheduling.queue import Line, Queue
from orqal.scheduling.standing import Standing, standing_of

__all__ = [
    "Host",
    "Line",
    "LineKey",
    "NodeType",
    "Placement",
    "Planner",
    "Policy",
    "Queue",
    "Standing",
    "demand",
    "impossible",
    "node_types",
    "standing_of",
    "why_not",
]
