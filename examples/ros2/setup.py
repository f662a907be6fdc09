"""What `colcon build` reads: where ROS looks for a package and its programs."""

from setuptools import setup

setup(
    name="sorl_ros2",
    version="0.1.0",
    packages=["sorl_ros2"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/sorl_ros2"]),
        ("share/sorl_ros2", ["package.xml"]),
    ],
    install_requires=["setuptools", "sorl-client"],
    entry_points={"console_scripts": ["sorl_node = sorl_ros2.sorl_node:main"]},
)
