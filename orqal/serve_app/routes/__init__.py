"""The routes. Those that older clients know answer in their form.

jobs.py         one job, and many at once
batches.py      jobs with a name in common
cluster.py      apps, hosts, how it all is
doctor.py       whether all is well
predecessor.py  what only clients of 0.0.12 and before ask for
shared.py       what the others share
"""

from fastapi import APIRouter

from orqal.serve_app.routes import batches, cluster, doctor, jobs, predecessor

health = cluster.health
ROUTERS: tuple[APIRouter, ...] = (jobs.router, batches.router, cluster.router, doctor.router, predecessor.router)
"""All below /api."""

__all__ = ["ROUTERS", "health"]
