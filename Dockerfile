# The image of the migration and of the workers; see docker-compose.yml.
FROM python:3.12-slim
RUN useradd --uid 10001 --create-home exitbits \
    && install --directory --owner=10001 --group=10001 /var/cache/exitbits
# The fast engine compiles its kernels for the processor that it finds.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/exitbits
COPY docker/requirements.txt docker/requirements.txt
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement docker/requirements.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY search search
COPY studies studies
COPY dashboards dashboards
# Nothing more is fetched: what builds the package is among what was installed.
RUN pip install --no-cache-dir --no-deps --no-index --no-build-isolation .
USER 10001:10001
WORKDIR /home/exitbits
ENTRYPOINT ["exitbits"]
CMD ["--help"]
