"""The routes of the API.

jobs.py         submit, show, list, cancel and retry jobs, and wait for them
output.py       a job's output and files
batches.py      jobs with a common name
cluster.py      apps, hosts, metrics, and changes as they come
doctor.py       look for problems and repair them
cleaning.py     delete ended jobs and leftovers
predecessor.py  routes that only clients of orqal 0.0.12 and older use

Several of these use:

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
"""Their paths are below /api."""

__all__ = ["ROUTERS", "health"]
