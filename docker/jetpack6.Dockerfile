# moir-edge on a Jetson Orin with JetPack 6.1 or later (Jetson Linux R36.4): CUDA 12.6, TensorRT 10.3, Python 3.10.
#   docker build -f docker/jetpack6.Dockerfile -t moir-edge:jetpack6 .
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0

# TensorRT's Python module comes from the same release as its libraries, which the engines must fit.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-libnvinfer python3-venv \
 && rm -rf /var/lib/apt/lists/*

# --system-site-packages: the environment sees TensorRT's module.
RUN python3 -m venv --system-site-packages /opt/moir-edge
COPY pyproject.toml README.md LICENSE /src/
COPY moir_edge /src/moir_edge
RUN /opt/moir-edge/bin/pip install --no-cache-dir '/src[tensorrt,serve]' && rm -rf /src

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
