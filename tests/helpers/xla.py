"""What XLA compiles in a graph of TensorFlow."""


def compiled_parts(function):
    """Number of functions called by a function that XLA compiles."""
    return sum(
        definition.attr["_XlaMustCompile"].b
        for definition in function.graph.as_graph_def().library.function
        if definition.signature.name != function.name
    )
