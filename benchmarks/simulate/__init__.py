"""A simulation of weeks of a cluster under load, with Orqal's own decisions: `python -m benchmarks.simulate`.

    workload.py   the jobs, by a published model
    cluster.py    their course under a policy, in virtual time
    policies.py   Orqal's decisions, and strict first come, first served
    figures.py    what is printed, and what it is compared with
    pictures.py   what is drawn

It needs no Docker and no Ray.
"""
