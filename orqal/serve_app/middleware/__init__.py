"""ASGI middleware, one behaviour per file.

auth.py            the token, and which pages may make a browser send a request
request_limits.py  how many requests are handled at a time
backpressure.py    how many bytes are on their way between the proxy and a replica
proxy.py           the middleware that runs in Serve's proxy
"""
