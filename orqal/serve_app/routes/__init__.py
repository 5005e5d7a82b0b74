"""The routes of the API.

jobs.py         submit jobs, look at them, wait for, cancel and retry them
output.py       what a job wrote: its output and files
batches.py      jobs with a name in common
cluster.py      apps, hosts, and changes as they come
doctor.py       whether everything is well
cleaning.py     delete what is over
predecessor.py  what only clients of orqal 0.0.12 and older use

Several of them use:

parameters.py     parameters
submission.py     submitting the jobs of a request's body
selection.py      which jobs a request selects
streaming.py      answers that are made while they are sent
documentation.py  errors and bodies in the OpenAPI document
"""

from fastapi import APIRouter

from orqal.serve_app.routes import batches, cleaning, cluster, doctor, jobs, output, predecessor

health = cluster.health
ROUTERS: tuple[APIRouter, ...] = (
    jobs.router,
    output.router,
    batches.router,
    cluster.router,
    doctor.router,
    cleaning.router,
    predecessor.router,
)
"""All below /api."""

__all__ = ["ROUTERS", "health"]
