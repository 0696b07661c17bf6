# Needs BuildKit, for the cache mounts: DOCKER_BUILDKIT=1 where the engine is older than 23. docs/docker.md explains.

# --- what the code needs, in a virtual environment; rebuilt only when pyproject.toml or constraints.txt change -------
FROM python:3.11-slim-bookworm AS dependencies

# The compiler and, for a python that is Debian's own, its headers: torch-scatter comes as source only.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libpython3.11-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

# By far the largest, so a layer of its own. PyPI's has CUDA inside; TORCH_INDEX_URL names an index that has it without.
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --retries 0 ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "torch==$TORCH_VERSION"

# Compiled against this torch, which the build must see (no isolation), and never taken from a cache of wheels that
# were compiled against another. One compiler at a time: each takes gigabytes.
ARG TORCH_SCATTER_VERSION=2.1.2
RUN MAX_JOBS=1 FORCE_ONLY_CPU=1 pip install --no-cache-dir --no-build-isolation "torch-scatter==$TORCH_SCATTER_VERSION"

COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; extras = project['optional-dependencies']; \
print(*project['dependencies'], *extras['demo'], *extras['confluent'], sep='\n')" > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt \
    && pip check \
    && torch=$(python -c "import torch; print(torch.__path__[0])") \
    && rm -rf "$torch"/include "$torch"/test "$torch"/bin/*[Tt]est* "$torch"/bin/protoc*

# --- our own code as a wheel -----------------------------------------------------------------------------------------
FROM dependencies AS package
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist .

# --- what runs -------------------------------------------------------------------------------------------------------
FROM python:3.11-slim-bookworm

RUN groupadd --gid 10001 flexihash \
    && useradd --uid 10001 --gid flexihash --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin flexihash \
    && install --directory --owner flexihash --group flexihash /var/lib/flexihash /var/lib/flexihash/checkpoints
COPY --from=dependencies /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN --mount=type=bind,from=package,source=/dist,target=/dist \
    pip install --no-cache-dir --no-index --no-deps --disable-pip-version-check /dist/*.whl

# The kernels, compiled for this machine's processor by running them: an image that cannot learn is not built.
RUN set -e; export NUMBA_CACHE_DIR=/opt/kernels; cd /tmp; \
    flexihash produce synthetic --limit 1000 --out events.ndjson; \
    for task in binary regression counts quantile; do \
        flexihash learn events.ndjson --task $task --checkpoint-dir checkpoints-$task --json; \
    done; \
    rm -r events.ndjson checkpoints-*; chmod -R a+rX /opt/kernels

ENV FLEXIHASH_HOST=0.0.0.0 \
    FLEXIHASH_CHECKPOINT_DIR=/var/lib/flexihash/checkpoints \
    NUMBA_CACHE_DIR=/tmp/kernels
USER 10001:10001
WORKDIR /var/lib/flexihash
EXPOSE 8080

# Alive, not ready: whoever ends what is unhealthy (Swarm does) must not end a service that waits for its broker.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"FLEXIHASH_PORT\", \"8080\")}/livez', timeout=4)"]

# Numba takes compiled kernels only from a folder that it may write to, so they are copied to one, in memory where /tmp
# is a tmpfs. On another processor it compiles them anew there.
ENTRYPOINT ["sh", "-c", "mkdir -p \"$NUMBA_CACHE_DIR\" && cp -R /opt/kernels/. \"$NUMBA_CACHE_DIR\" || { echo \"flexihash: cannot write to $NUMBA_CACHE_DIR; mount a tmpfs at /tmp\" >&2; exit 2; }; exec flexihash \"$@\"", "flexihash"]
CMD ["serve"]
