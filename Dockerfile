# One image for the server and the worker: `docker run … eventsync serve`, `docker run … eventsync worker`.
# It does not contain the embedded mongod: in production, use a replica set of your own.
#
# Everything that it installs is locked, with hashes, in locks/. To lock the base image too, name its digest:
# docker build --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:… .
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY locks locks
# No pip in what is kept: it would be a tenth of it.
RUN pip install --require-hashes -r locks/build.txt \
 && python -m venv --without-pip /opt/eventsync \
 && pip --python /opt/eventsync/bin/python install --require-hashes -r locks/otel.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY workers workers
# The pages are served with the client, by links into this directory.
COPY clients/js/src clients/js/src
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/eventsync/bin/python install --no-deps --no-index /wheels/*.whl

FROM ${PYTHON_IMAGE}
# A test compares it with the package's own version.
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title=eventsync \
      org.opencontainers.image.description="A sync server for MongoDB that needs nothing but MongoDB" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /opt/eventsync /opt/eventsync
COPY scripts/initiate-replica-set /usr/local/bin/
# In a container, listen on all addresses; the published ports decide who can connect. A server without rules needs
# EVENTSYNC_ALLOW_UNAUTHENTICATED=true for that, which is not set here.
ENV PATH=/opt/eventsync/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EVENTSYNC_HOST=0.0.0.0
# A volume that is mounted here belongs to this user.
RUN install -d -m 0700 -o 10001 -g 10001 /archive
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
# A worker answers no requests. If EVENTSYNC_HEALTH_FILE is set, it is healthy while it touches that file.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s CMD \
    if [ -n "$EVENTSYNC_HEALTH_FILE" ]; then test -n "$(find "$EVENTSYNC_HEALTH_FILE" -newermt '-15 seconds')"; \
    else python -c "import os, urllib.request as http; \
        http.urlopen('http://127.0.0.1:' + os.environ.get('EVENTSYNC_PORT', '8000') + '/healthz', timeout=5)"; fi
ENTRYPOINT ["eventsync"]
CMD ["serve"]
