"""What tests stand on: a cluster in one process, with virtual time."""
