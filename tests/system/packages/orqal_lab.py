"""An installed package with a wrapper, named by its entry point."""

from typing import Any

from orqal import AbstractWrapper


class Hello(AbstractWrapper):
    """Says hello to its input."""

    docker_url = "orqal/demo"
    threads = 0.5
    memory_in_gb = 0.05
    network = "none"

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        return ["echo", f"hello {self.job.input}"]

    def set_result(self, job: Any) -> None:
        job.set_result({"said": job.stdout[0]})
