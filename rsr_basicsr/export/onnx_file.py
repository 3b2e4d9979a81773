"""A graph as an ONNX file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from rsr_basicsr.export.graph import INPUT, OUTPUT, Graph, quiet
from rsr_basicsr.utils.errors import ExportError, OptionsError, in_one_line

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


def check_packages() -> None:
    """Raise OptionsError if a package for writing or verifying is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionsError(f'--onnx needs {", ".join(missing)}: pip install {" ".join(missing)}')


def to_bytes(graph: Graph) -> bytes:
    """The content of the file.

    Raises:
        ExportError: the network has an operation without a counterpart in ONNX.
    """
    try:
        with quiet():
            program: Any = torch.onnx.export(
                graph.program, (), dynamo=True, verbose=False, optimize=True, input_names=[INPUT], output_names=[OUTPUT]
            )
    except Exception as error:  # the exporter raises errors of any type
        raise ExportError(
            f'torch {torch.__version__} cannot write {type(graph.net.net).__name__} as ONNX: {in_one_line(error)[:200]}'
        ) from error
    model = program.model_proto
    # Shapes of inner tensors are optional, and torch 2.6 writes those of the sample.
    del model.graph.value_info[:]
    if graph.size is None:
        for value, sides in (
            (model.graph.input[0], ('height', 'width')),
            (model.graph.output[0], ('height_out', 'width_out')),
        ):
            dims = value.type.tensor_type.shape.dim
            for dim, name in zip((dims[0], dims[2], dims[3]), ('batch', *sides)):
                dim.dim_param = name
    return model.SerializeToString()


def verify(content: bytes, graph: Graph) -> list[tuple[float, float]]:
    """Largest difference from the network and its largest output per example, in onnxruntime.

    The network gets the random numbers that the runtime drew.

    Raises:
        ExportError: the runtime rejects the graph, or draws the same numbers in two runs.
    """
    try:
        run = _runner(content)
        runs = [run(x) for x in graph.examples]
        drawn, again = runs[-1][1], run(graph.examples[-1])[1]
    except Exception as error:  # onnxruntime's errors have no common base class
        raise ExportError(f'onnxruntime rejects the graph: {in_one_line(error)[:200]}') from error
    if graph.fresh_masks and (not drawn or any(map(torch.equal, drawn, again))):
        raise ExportError('onnxruntime would use the same masks in every run')
    found = []
    for x, (output, numbers) in zip(graph.examples, runs):
        with _RandomNumbers(numbers):
            expected = graph.expected(x)
        found.append((float((output - expected).abs().max()), float(expected.abs().max())))
    return found


def _runner(content: bytes) -> Callable[[torch.Tensor], tuple[torch.Tensor, list[torch.Tensor]]]:
    """A function that maps an image to the output and the random numbers of a run."""
    import onnx
    import onnxruntime

    model = onnx.load_from_string(content)
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        for node in model.graph.node
        if node.op_type.startswith('Random')
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])

    def run(x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        output, *numbers = map(torch.from_numpy, session.run(None, {INPUT: x.numpy()}))
        return output, numbers

    return run


class _RandomNumbers(TorchFunctionMode):
    """Replaces the results of ``torch.rand`` by these tensors, in order, within the block."""

    def __init__(self, numbers: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.numbers = iter(numbers)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is not torch.rand:
            return function(*args, **(kwargs or {}))
        numbers = next(self.numbers, torch.empty(0))
        if numbers.shape != args:
            raise ExportError(f'the graph draws {tuple(numbers.shape)} random numbers where the network draws {args}')
        return numbers
