"""A Docker daemon: calls to it, what it sends, and what containers leave on its machine."""
