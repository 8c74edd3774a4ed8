"""Graphs of ops with named values."""

from __future__ import annotations

import pytest

from hwnas.errors import SpaceError
from hwnas.ops import Add, Conv, GlobalPool, Graph, Node, Operator, SqueezeExcite, TensorSpec


def test_a_chain_connects_each_op_to_the_one_before() -> None:
    graph = Graph.chain((3, 8, 8), [Conv("a", 3, 4, 3, 2), SqueezeExcite("b", 4, 8), GlobalPool("c")])
    assert [node.inputs for node in graph.nodes] == [("x",), ("a",), ("b",)]
    assert graph.value("a").shape == (4, 4, 4)
    assert graph.output == TensorSpec((4, 1, 1))


def test_a_residual_adds_the_shortcut_to_the_path() -> None:
    graph = Graph.residual((3, 8, 8), [Conv("a", 3, 4)], [Conv("b", 3, 4)], "relu")
    assert [(node.op.name, node.inputs) for node in graph.nodes] == [
        ("a", ("x",)),
        ("b", ("x",)),
        ("residual", ("a", "b")),
        ("relu", ("residual",)),
    ]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((Node(Conv("a", 3, 3), ("y",)),), "'a' reads 'y', which no earlier op gives"),
        ((Node(Conv("x", 3, 3), ("x",)),), "different names, got x, x"),
        ((), "different names"),
        ((Node(Conv("a", 3, 4), ("x",)), Node(Add("s"), ("a", "x"))), r"adds values of shapes \(4, 8, 8\)"),
    ],
)
def test_a_graph_that_cannot_be_computed_is_refused(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Graph({"x": TensorSpec((3, 8, 8))}, nodes)


def test_peak_bytes_are_counted_over_the_values_that_are_still_used() -> None:
    """The input of a residual block is held until the sum, which is computed in place."""
    size = 8 * 8
    chain = Graph.chain((3, 8, 8), [Conv("a", 3, 10), Conv("b", 10, 3)])
    assert chain.peak_bytes(4) == 4 * (10 + 3) * size
    residual = Graph.residual((3, 8, 8), [Conv("a", 3, 10), Conv("b", 10, 3)])
    assert residual.peak_bytes(4) == 4 * (3 + 10 + 3) * size
    shortcut = Graph.residual((3, 8, 8), [Conv("a", 3, 2)], [Conv("b", 3, 9), Conv("c", 9, 2)])
    assert shortcut.peak_bytes(4) == 4 * (3 + 9 + 2) * size


def test_versions_in_one_slot_have_one_structure_whatever_their_sizes() -> None:
    small, large = (
        Operator("basic", (c, 8, 8), (c, 8, 8), (("mid", c), ("k", k), ("act", "relu")))
        for c, k in ((4, 3), (8, 5))
    )
    assert small.graph.structure == large.graph.structure
