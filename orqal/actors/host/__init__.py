"""The HostActor: one for each host. It runs attempts in containers and reports how they ended."""
