# Orqal's own processes, for compose.yaml: the head, or what fronts a Docker daemon elsewhere.
# All containers of a cluster are of one image: Ray wants the same Python and the same Ray everywhere.
FROM python:3.12-slim
COPY pyproject.toml README.md /src/
COPY orqal /src/orqal
RUN pip install --no-cache-dir '/src[cluster]' && rm -r /src
CMD ["orqal", "--help"]
