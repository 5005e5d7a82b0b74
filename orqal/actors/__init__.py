"""The actors: they join scheduling, store, Docker and wrappers, and each lives in a process of its own."""
