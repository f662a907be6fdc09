#!/usr/bin/env bash
# A virtual environment at FOLDER with ROS 2 and what the client needs. ROS 2's wheels are for Linux on x86-64, and not
# on every mirror of packages: where they can't be had there is no FOLDER, and the test is skipped.
set -euo pipefail
folder=$1
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "No ROS 2 for $(uname -sm): its test is skipped." >&2; exit 0; }
test -x "$folder/bin/python" || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check anyio httpx msgpack numpy ros-rclpy==9.1.2 \
  ros-rmw-fastrtps-cpp==9.3.3 ros-{diagnostic,sensor,std,trajectory}-msgs==5.5.1 ros-std-srvs==5.5.1 ||
  { echo "ROS 2's wheels can't be had here: its test is skipped." >&2; rm -rf "$folder"; }
