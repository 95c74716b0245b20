# The image of the migration and of the workers; see docker-compose.yml.
FROM python:3.12-slim
RUN useradd --uid 10001 --create-home exitbits \
    && install --directory --owner=10001 --group=10001 /var/cache/exitbits
# The fast engine compiles its kernels for the processor that it finds.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/exitbits
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY search search
COPY studies studies
COPY dashboards dashboards
RUN pip install --no-cache-dir .
USER 10001:10001
WORKDIR /home/exitbits
ENTRYPOINT ["exitbits"]
CMD ["--help"]
