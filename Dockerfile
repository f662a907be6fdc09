# The service with its shipped policies. VARIANT chooses extras: "serve" (any machine) or "serve,gpu" (Triton).
FROM python:3.11-slim-bookworm AS build
ARG VARIANT=serve
WORKDIR /src
# For the native CPU engine; the image that serves has no compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/sorl
COPY pyproject.toml setup.py README.md LICENSE ./
COPY policy policy
COPY kernels kernels
COPY training training
COPY service service
COPY bench bench
RUN /opt/sorl/bin/pip install --no-cache-dir ".[${VARIANT}]"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 sorl
COPY --from=build /opt/sorl /opt/sorl
COPY deploy/policies /policies
ENV PATH=/opt/sorl/bin:$PATH SORL_HOST=0.0.0.0 SORL_PORT=8000 SORL_MODEL=/policies/cube-single.safetensors
USER sorl
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["sorl-serve"]
