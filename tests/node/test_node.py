from node.node import Node


def test_the_node_is_ready(node: Node):
    assert node.is_ready()
