"""A robot in ROS 2: `robot.py`. Joints and a gripper move; what it is told, it prints, a line of JSON a message.

A line on its standard input says something to do: {"joints": [...]} sends these joints from now on, {"reset": 1} asks
for a reset. It ends with its input.
"""

import contextlib
import json
import sys
import threading

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32MultiArray, Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

rclpy.init()
node = rclpy.create_node("robot")
joints = ["wrist", "finger", "shoulder", "elbow"]
position = {"shoulder": 0.1, "elbow": 0.2, "wrist": 0.3, "finger": 9.0}
states = node.create_publisher(JointState, "joint_states", 1)
gripper = node.create_publisher(Float32MultiArray, "observation/gripper", 1)
reset = node.create_client(Trigger, "sorl_node/reset")


def tell(**what):
    print(json.dumps(what), flush=True)


def move():
    values = [position[joint] for joint in joints]
    states.publish(JointState(name=joints, position=values, velocity=[10 * value for value in values]))
    gripper.publish(Float32MultiArray(data=[0.5]))


def trajectory(message):
    (point,) = message.points
    reached = point.time_from_start
    tell(joints=list(message.joint_names), action=list(point.positions), reached=reached.sec + reached.nanosec / 1e9)


def report(message):
    for status in message.status:
        figures = {value.key: value.value for value in status.values}
        tell(level=ord(status.level), name=status.name, message=status.message, figures=figures)


def listen():
    global joints
    for line in sys.stdin:
        order = json.loads(line)
        joints = order.get("joints", joints)
        if "reset" in order:
            reset.call_async(Trigger.Request()).add_done_callback(lambda done: tell(reset=done.result().success))
    rclpy.shutdown()


node.create_subscription(Float64MultiArray, "commands", lambda message: tell(action=list(message.data)), 10)
node.create_subscription(JointTrajectory, "joint_trajectory", trajectory, 10)
node.create_subscription(DiagnosticArray, "/diagnostics", report, 10)
node.create_timer(0.02, move)
threading.Thread(target=listen, daemon=True).start()
with contextlib.suppress(ExternalShutdownException):
    rclpy.spin(node)
