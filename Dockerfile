# The image for CPUs: docker build -t weft .
# torch from the usual index is for devices, and large; an index of CPU wheels goes first where it is named:
#   docker build --build-arg PIP_INDEX_URL=... --build-arg PIP_EXTRA_INDEX_URL=... -t weft .
FROM python:3.11-slim-bookworm
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# The compiler stays: a part that fits the machine's own CPU is compiled at the first start there.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY weft /src/weft
RUN pip install --no-cache-dir -c /src/constraints.txt /src && rm -r /src
RUN python -m weft.compute.native.build --all
ENV WEFT_CACHE=/var/cache/weft
ENV HF_HOME=/var/cache/weft/huggingface
# Of the user alone: downloads and compiled parts, and the agent's socket.
RUN useradd --uid 1000 --create-home weft && install -d -o weft -g weft /var/cache/weft /run/weft /run/weft/runtime
USER 1000:1000
EXPOSE 8000 25000
ENTRYPOINT ["weft"]
CMD ["--help"]
