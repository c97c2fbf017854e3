# metasgd as a batch image: `docker build -t metasgd . && docker run --rm metasgd`. See docs/cluster.md.

# pin it further as you need: python:3.11.14-slim-bookworm, or by digest
ARG BASE=python:3.11-slim
FROM ${BASE}

# tini is PID 1: it passes SIGTERM on, which the kernel withholds from a PID 1 without a handler, so that a run
# stopped at any moment ends, with its last checkpoint saved; and it reaps what torchrun leaves behind
# (its release is the base image's, which is an argument)
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 metasgd

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# The largest layer first, and on its own. By default pip's index, whose x86-64 wheels carry CUDA;
# for the small CPU wheels, --build-arg TORCH_INDEX=ADDRESS with the one that pytorch.org shows for "CPU".
ARG TORCH=2.14.1
ARG TORCHVISION=0.29.1
ARG TORCH_INDEX
# (pinned, by the arguments)
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==${TORCH}" "torchvision==${TORCHVISION}"

# the other dependencies, of the versions that were tested, again only when they change
WORKDIR /opt/metasgd
COPY pyproject.toml requirements.lock ./
RUN pip install -r requirements.lock

COPY README.md LICENSE ./
COPY checkpoints ./checkpoints
COPY configs ./configs
COPY src ./src
RUN pip install --no-deps .

# ./data and ./runs are where the configurations look for data and put runs
WORKDIR /app
COPY configs ./configs
RUN mkdir data runs && chown metasgd:metasgd data runs
USER 1000
VOLUME ["/app/data", "/app/runs"]

ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "metasgd", "--help"]
