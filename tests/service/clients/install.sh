#!/usr/bin/env bash
# A virtual environment at FOLDER with the clients that robots use, unmodified: openpi's, Triton's, and what GR00T's and
# OpenVLA's are made of. One of its own, since openpi's needs NumPy 1.
set -euo pipefail
folder=$1
test -x "$folder/bin/python" || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check \
  json-numpy==2.1.1 msgpack-numpy==0.4.8 openpi-client==0.1.2 pyzmq==27.3.0 requests==2.34.2 'tritonclient[http,grpc]==2.73.0'
