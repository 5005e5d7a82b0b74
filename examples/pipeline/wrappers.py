"""Three apps for a pipeline. Each one uses the results of the apps before it. Name this file in ORQAL_SERVICES."""

from orqal import AbstractWrapper


class Small:
    """What all three ask for."""

    docker_url = "orqal/demo"
    threads = 0.5
    memory_in_gb = 0.1
    volumes = {}
    network = "none"


class Factors(Small, AbstractWrapper):
    """The prime factors of the number that is its input."""

    def get_cmd(self, params):
        return ["factor", self.job.input]

    def set_result(self, job):
        if job.exit_code == 0:
            _, factors = job.stdout[0].split(":")
            job.set_result([int(factor) for factor in factors.split()])


class Product(Small, AbstractWrapper):
    """The product of the numbers that its parent has found."""

    def get_cmd(self, params):
        [parent] = self.job.parents
        return ["sh", "-c", f"echo $(({' * '.join(map(str, [1, *parent.result]))}))"]

    def set_result(self, job):
        job.set_result(int(job.stdout[0]))


class Digest(Small, AbstractWrapper):
    """The SHA-256 of what all its parents have found, as text."""

    def get_cmd(self, params):
        found = " ".join(str(parent.result) for parent in self.job.parents)
        return ["sh", "-c", 'echo "$0" | sha256sum', found]

    def set_result(self, job):
        job.set_result(job.stdout[0].split()[0])
