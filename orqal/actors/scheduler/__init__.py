"""The Scheduler: one for a cluster. It takes jobs, decides where they run, and writes the store."""
