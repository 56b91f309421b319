# The command line in a container:
#   docker build -t spectok .
#   docker run --rm -v "$PWD:/data" spectok encode speech.wav speech.spt
FROM python:3.12-slim
COPY pyproject.toml hatch_build.py README.md LICENSE /spectok/
COPY spectok /spectok/spectok
COPY pretrained /spectok/pretrained
RUN pip install --no-cache-dir /spectok && rm -r /spectok
WORKDIR /data
ENTRYPOINT ["spectok"]
