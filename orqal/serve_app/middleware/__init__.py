"""ASGI middleware, one behaviour a file.

auth.py            who may use the API
request_limits.py  how many requests are handled at a time
backpressure.py    how many bytes are on their way between the proxy and a replica
proxy.py           what of this Serve's proxy runs
"""
