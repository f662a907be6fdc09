"""The ROS 2 node: its parameters, topics, diagnostics and end. What it does with them is in `bridge`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from types import FrameType
from typing import Any

from sorl_client import Client, SorlError

from sorl_ros2.bridge import Bridge, BridgeError, Settings

ACK_S = 1.0  # for the last action to reach its subscribers


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM. Returns the exit status: 1 if a parameter or the server is at fault."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    # ROS's own handlers would take its context down before the last action is published.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("sorl_node")
    ends: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        ends.append(number)

    try:
        settings = read_settings(node)
        publish, acknowledged = make_publisher(node, settings)
        with Client(settings.url, api_key=os.environ.get("SORL_API_KEY")) as client:
            client.wait_until_ready(settings.wait_s)
            bridge = Bridge(client, settings, lambda action: publish(action, 1.0 / bridge.hz))
            connect(node, settings, bridge)
            node.get_logger().info(f"{bridge.model} at {bridge.hz:g} Hz, observation: {bridge.parts}")
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, end)
            try:
                while not ends:
                    executor.spin_once(timeout_sec=0.1)
            finally:
                bridge.close()
                acknowledged()
                executor.shutdown()
    except (BridgeError, SorlError) as error:
        node.get_logger().fatal(str(error))
        return 1
    except KeyboardInterrupt:  # before the first tick
        return 128 + signal.SIGINT
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return 0


def read_settings(node: Any) -> Settings:
    """The node's parameters; their types are checked by `Settings`, so that 20 is as good as 20.0."""
    from rcl_interfaces.msg import ParameterDescriptor

    found: dict[str, Any] = {}
    for field in fields(Settings):
        default: Any = list(field.default) if isinstance(field.default, tuple) else field.default
        value = node.declare_parameter(field.name, default, ParameterDescriptor(dynamic_typing=True)).value
        found[field.name] = default if value is None else value  # an empty list has no type, and becomes None
    return Settings(**found)


def make_publisher(node: Any, settings: Settings) -> tuple[Callable[[list[float], float], None], Callable[[], Any]]:
    """A function that publishes an action for a period of so many seconds, and one that waits until it has arrived."""
    from rclpy.duration import Duration
    from std_msgs.msg import Float64MultiArray
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    if settings.output == "array":
        publisher = node.create_publisher(Float64MultiArray, "commands", 1)

        def publish(action: list[float], period_s: float) -> None:
            publisher.publish(Float64MultiArray(data=action))
    else:
        publisher = node.create_publisher(JointTrajectory, "joint_trajectory", 1)

        def publish(action: list[float], period_s: float) -> None:
            reached = Duration(seconds=period_s).to_msg()
            point = JointTrajectoryPoint(positions=action, time_from_start=reached)
            publisher.publish(JointTrajectory(joint_names=list(settings.action_joints), points=[point]))

    return publish, lambda: publisher.wait_for_all_acked(Duration(seconds=ACK_S))


def connect(node: Any, settings: Settings, bridge: Bridge) -> None:
    """Subscribe to what the policy observes; tick at its rate; report once a second; offer `~/reset`."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from rclpy.qos import QoSProfile, QoSReliabilityPolicy
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Float32MultiArray
    from std_srvs.srv import Trigger

    newest = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)

    def subscribe(topic: str, part: str | None) -> None:
        node.create_subscription(Float32MultiArray, topic, lambda message: bridge.receive(message.data, part), newest)

    subscribe("observation", None)
    for part, topic in bridge.topics.items():
        subscribe(topic, part)
    if settings.joints:

        def joints(state: Any) -> None:
            bridge.receive_joints(state.name, position=state.position, velocity=state.velocity)

        node.create_subscription(JointState, "joint_states", joints, newest)

    diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
    levels = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR)

    def report() -> None:
        status = bridge.status()
        values = [KeyValue(key=name, value=value) for name, value in status.figures.items()]
        told = DiagnosticStatus(level=levels[status.level], name=node.get_name(), message=status.message, values=values)
        told.hardware_id = settings.url
        array = DiagnosticArray(status=[told])
        array.header.stamp = node.get_clock().now().to_msg()
        diagnostics.publish(array)
        if status.level:
            node.get_logger().warning(status.message)

    def reset(request: Any, response: Any) -> Any:
        bridge.reset()
        response.success = True
        return response

    node.create_timer(1.0 / bridge.hz, bridge.tick)
    node.create_timer(1.0, report)
    node.create_service(Trigger, "~/reset", reset)


if __name__ == "__main__":
    sys.exit(main())
