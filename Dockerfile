# The image of Orqal's own processes, for compose.yaml: the head, and the processes that drive Docker daemons elsewhere.
# All containers of a cluster use the same image, because Ray needs the same Python and the same Ray everywhere.
FROM python:3.12-slim
COPY pyproject.toml README.md /src/
COPY orqal /src/orqal
RUN pip install --no-cache-dir '/src[cluster]' && rm -r /src
CMD ["orqal", "--help"]
