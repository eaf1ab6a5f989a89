# moir-edge on a Jetson Thor with JetPack 7 (Jetson Linux R38): CUDA 13.0, TensorRT 10.13, Python 3.12.
#   docker build -f docker/jetpack7.Dockerfile -t moir-edge:jetpack7 .
FROM nvcr.io/nvidia/tensorrt:25.08-py3

# The image holds TensorRT with its Python module. It has the driver's libraries for servers, and a Thor runs those.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*

# --system-site-packages: the environment sees TensorRT's module.
RUN python3 -m venv --system-site-packages /opt/moir-edge
COPY pyproject.toml README.md LICENSE /src/
COPY moir_edge /src/moir_edge
# NVIDIA's image pins packages of its own through PIP_CONSTRAINT.
RUN PIP_CONSTRAINT= /opt/moir-edge/bin/pip install --no-cache-dir '/src[tensorrt,serve]' && rm -rf /src

# Files that belong to nobody's account: the server writes none. Compiled kernels are kept below the cache folder.
RUN useradd --system --create-home --groups video moir-edge
USER moir-edge
ENV PATH=/opt/moir-edge/bin:$PATH
VOLUME /home/moir-edge/.cache
EXPOSE 8000
HEALTHCHECK --interval=30s --start-period=120s \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["moir-edge"]
CMD ["doctor"]
