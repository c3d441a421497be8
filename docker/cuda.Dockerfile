# docker build -f docker/cuda.Dockerfile -t p2pkit-cuda --build-arg ARCHITECTURES=9.0 .
# docker run --rm --gpus all -v "$PWD:/data" -w /data p2pkit-cuda doctor
#
# Not built by p2pkit's authors. CUDA comes with pip's packages, compiler included; the host needs
# NVIDIA's driver and container toolkit. ARCHITECTURES are the GPU's: 8.0 for A100, 8.6 for RTX 30,
# 8.9 for RTX 40, 9.0 for H100; several are separated by semicolons and take 9 to 15 minutes each.
FROM python:3.12-slim AS build
ARG ARCHITECTURES="8.6;9.0"
RUN apt-get update && apt-get install -y --no-install-recommends g++
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir torch==2.13.0
COPY . /src
RUN /venv/bin/pip install --no-cache-dir -c /src/constraints.txt torch==2.13.0 /src \
    && TORCH_CUDA_ARCH_LIST="$ARCHITECTURES" /venv/bin/p2pkit doctor --install minkowski --cuda

FROM python:3.12-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["p2pkit"]
