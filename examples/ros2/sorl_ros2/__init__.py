"""A ROS 2 node that asks a SORL Serve policy server for actions. `bridge` has its logic, `sorl_node` its topics."""
