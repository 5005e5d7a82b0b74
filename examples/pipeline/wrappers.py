"""Three apps, each of which goes on with what the one before has made. Give this file to Orqal in ORQAL_SERVICES."""

from orqal import AbstractWrapper


class Factors(AbstractWrapper):
    """The prime factors of the number that is its input."""

    docker_url = "orqal/demo"
    threads = 0.5
    memory_in_gb = 0.1
    volumes = {}
    network = "none"

    def get_cmd(self, params):
        return ["factor", self.job.input]

    def set_result(self, job):
        if job.exit_code == 0:
            _, factors = job.stdout[0].split(":")
            job.set_result([int(factor) for factor in factors.split()])


class Product(AbstractWrapper):
    """The product of the numbers that its parent has found."""

    docker_url = "orqal/demo"
    threads = 0.5
    memory_in_gb = 0.1
    volumes = {}
    network = "none"

    def get_cmd(self, params):
        [parent] = self.job.parents
        return ["sh", "-c", f"echo $(({' * '.join(map(str, [1, *parent.result]))}))"]

    def set_result(self, job):
        job.set_result(int(job.stdout[0]))


class Digest(AbstractWrapper):
    """The SHA-256 of what all its parents have found, as text."""

    docker_url = "orqal/demo"
    threads = 0.5
    memory_in_gb = 0.1
    volumes = {}
    network = "none"

    def get_cmd(self, params):
        found = " ".join(str(parent.result) for parent in self.job.parents)
        return ["sh", "-c", 'echo "$0" | sha256sum', found]

    def set_result(self, job):
        job.set_result(job.stdout[0].split()[0])
