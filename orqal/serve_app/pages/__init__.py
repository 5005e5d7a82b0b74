"""The pages for people: an overview, lists of jobs, one job, and the logs of Orqal's processes.

routes.py        what is on each page
rendering.py     the templates, and the headers that keep a page harmless
formatting.py    values as people read them
process_logs.py  the logs of Orqal's processes, from Ray

The pages only read. What jobs contain (inputs, names, output, messages) is hostile: Jinja escapes it,
`formatting.plain` replaces control characters, and the Content-Security-Policy allows no script but our own.
"""

from orqal.serve_app.pages.routes import pages

__all__ = ["pages"]
