# The service with its shipped policies. What a variant downloads and how to build it: docs/deployment.md.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
# Where torch is taken from; empty is pip's own index, whose package for Linux is the CUDA build.
ARG TORCH_INDEX=""
# Every protocol, on any machine. ",gpu" behind it adds Triton, ",scale" Ray.
ARG EXTRAS=serve,grpc,zmq
WORKDIR /src
# For the native CPU engine; the image that serves has no compiler.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
# Everything but torch by its hash. torch's depends on the build, and so do the CUDA libraries, Triton and Ray.
COPY deploy/requirements.lock deploy/requirements.lock
RUN python -m venv /opt/sorl \
 && /opt/sorl/bin/pip install --no-cache-dir --require-hashes --requirement deploy/requirements.lock
RUN /opt/sorl/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch==2.13.0
COPY pyproject.toml setup.py README.md LICENSE ./
COPY policy policy
COPY kernels kernels
COPY training training
COPY service service
COPY bench bench
COPY deploy/__init__.py deploy/__init__.py
COPY deploy/ray deploy/ray
# With the lock's setuptools and nanobind, not with what pip would fetch for the build. -I: what is installed, not /src.
RUN /opt/sorl/bin/pip install --no-cache-dir --no-build-isolation ".[${EXTRAS}]" \
 && /opt/sorl/bin/python -I -c "import kernels.cpu._engine"

FROM ${BASE}
# "gcc libc6-dev" for Triton, which compiles a small launcher at run time; nothing else needs a package.
ARG RUNTIME_PACKAGES=""
# hadolint ignore=DL3008,SC2086
RUN if [ -n "${RUNTIME_PACKAGES}" ]; then \
      apt-get update \
      && apt-get install --yes --no-install-recommends ${RUNTIME_PACKAGES} \
      && rm -rf /var/lib/apt/lists/*; \
    fi \
 && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin sorl
COPY --from=build /opt/sorl /opt/sorl
COPY deploy/policies /policies
# All that is ever written goes to /tmp: the root file system may be read-only.
ENV PATH=/opt/sorl/bin:$PATH HOME=/tmp TRITON_CACHE_DIR=/tmp/triton PYTHONDONTWRITEBYTECODE=1
ENV SORL_HOST=0.0.0.0 SORL_PORT=8000 SORL_MODEL=/policies/cube-single.safetensors
# A number, so that Kubernetes can see that it isn't root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["sorl-serve"]
