# docker build -f docker/cpu.Dockerfile -t p2pkit .
# docker run --rm -v "$PWD:/data" -w /data p2pkit demo
#
# Not built by p2pkit's authors. pip's default torch for Linux has CUDA in it: TORCH_OPTIONS takes
# pip's option for the CPU builds, such as the --index-url that torch's installation page names.
FROM python:3.12-slim AS build
ARG TORCH_OPTIONS=""
RUN apt-get update && apt-get install -y --no-install-recommends g++
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir $TORCH_OPTIONS torch==2.13.0
COPY . /src
RUN /venv/bin/pip install --no-cache-dir -c /src/constraints.txt torch==2.13.0 /src \
    && /venv/bin/p2pkit doctor --install minkowski --cpu

FROM python:3.12-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
ENTRYPOINT ["p2pkit"]
