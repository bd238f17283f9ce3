# One image for the server and the worker: `docker run … eventsync serve`, `docker run … eventsync worker`.
# The embedded mongod is not in it: production is your own replica set.

FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY workers workers
RUN python -m venv /opt/eventsync && /opt/eventsync/bin/pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/eventsync /opt/eventsync
COPY scripts/initiate-replica-set /usr/local/bin/
# Inside a container the address to listen on is every one of it; what is published decides who can connect.
ENV PATH=/opt/eventsync/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EVENTSYNC_HOST=0.0.0.0
# A volume that is mounted here belongs to that user.
RUN install -d -o 10001 -g 10001 /archive
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
ENTRYPOINT ["eventsync"]
CMD ["serve"]
