# The web demo: docker build -t xray2ct . && docker run -p 127.0.0.1:7860:7860 -e XRAY2CT_PASSWORD=<8 or more> xray2ct
# Each step is one that continuous integration runs on a clean clone; a GPU needs `--gpus all` and torch's CUDA build.
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make nodejs npm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /xray2ct
COPY . .
ENV PIP_CONSTRAINT=/xray2ct/constraints.txt PIP_NO_CACHE_DIR=1
# What `make web` needs: the packages and the viewer.
RUN make .venv/.installed demo/node_modules/.package-lock.json
RUN useradd --create-home demo && mkdir -p outputs && chown demo outputs
USER demo
EXPOSE 7860
# Inside a container 127.0.0.1 is unreachable from outside, so it listens on all addresses and asks for the password.
CMD ["make", "web", "WEB=host=0.0.0.0"]
