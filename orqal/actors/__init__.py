"""The Ray actors: thin shells that join scheduling, store, Docker and wrappers."""
