"""The ways to run a depth model that a benchmark puts side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mde.errors import InputError
from mde.predictor import Predictor, load_predictor

Runtime = Literal["torch", "onnxruntime", "openvino"]


@dataclass(frozen=True)
class Mode:
    """A runtime with its settings.

    options: of `mde.predictor.TorchPredictor`. precision: of the ONNX file. devices: where it runs.
    """

    name: str
    is_: str
    runtime: Runtime = "torch"
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    precision: str = "fp32"
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def compiles(self) -> bool:
        """Whether torch compiles the network, which takes a minute or more."""
        return bool(self.options.get("compile"))

    @property
    def needs_file(self) -> bool:
        """Whether it runs an ONNX file."""
        return self.runtime != "torch"

    def load(
        self, model: Path, size: tuple[int, int], device: str, threads: int | None
    ) -> Predictor:
        """The predictor of a checkpoint folder, or of an ONNX file that was exported at `size`.

        Raises InputError when a runtime is not installed, or has another device.
        """
        if not self.needs_file:
            return load_predictor(model, device, size, **self.options)
        from mde.export import OnnxPredictor

        assert self.runtime != "torch", "it needs a file"
        predictor = OnnxPredictor(model, runtime=self.runtime, threads=threads)
        if predictor.device != device:
            raise InputError(f"{self.runtime} runs on {predictor.device} here, not on {device}")
        return predictor


def _torch(name: str, is_: str, *devices: str, **options: Any) -> Mode:
    return Mode(name, is_, options=options, devices=devices or ("cpu", "cuda"))


def _onnx(name: str, is_: str, runtime: Runtime, precision: str = "fp32") -> Mode:
    return Mode(name, is_, runtime, precision=precision, devices=("cpu",))


EAGER = _torch("eager", "torch, float32: what the others are compared with")
LAST: dict[str, Any] = {"channels_last": True}
MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        EAGER,
        _torch("channels_last", "torch, float32, NHWC in memory", **LAST),
        _torch("compile", "torch.compile, float32, NHWC", compile=True, **LAST),
        _torch("bf16", "torch, bfloat16 autocast, NHWC", precision="bf16", **LAST),
        _torch("fp16", "torch, float16 autocast, NHWC", "cuda", precision="fp16", **LAST),
        _torch(
            "bf16-compile", "torch.compile, bfloat16 autocast, NHWC",
            precision="bf16", compile=True, **LAST,
        ),
        _torch(
            "fp16-compile", "torch.compile, float16 autocast, NHWC", "cuda",
            precision="fp16", compile=True, **LAST,
        ),
        _onnx("onnxruntime", "ONNX Runtime, float32", "onnxruntime"),
        _onnx("openvino", "OpenVINO, float32", "openvino"),
        _onnx("onnxruntime-int8", "ONNX Runtime, int8", "onnxruntime", "int8"),
        _onnx("openvino-int8", "OpenVINO, int8", "openvino", "int8"),
    )
}  # fmt: skip


def pick_modes(names: Sequence[str] | None, device: str, compile: bool = True) -> list[Mode]:
    """The modes of these names, `eager` first; None: all that the device (`cpu`, `cuda`) has.

    compile: whether those that compile are among them. Raises InputError for a name that is not in
    MODES and for one that the device does not have.
    """
    for name in names or ():
        if name not in MODES:
            raise InputError(f"--modes {name}: unknown; known: {', '.join(MODES)}")
        if device not in MODES[name].devices:
            there = " and ".join(MODES[name].devices)
            raise InputError(f"--modes {name}: runs on {there}, found --device {device}")
    asked = {EAGER.name, *(names or (n for n, mode in MODES.items() if device in mode.devices))}
    return [
        mode for name, mode in MODES.items() if name in asked and (compile or not mode.compiles)
    ]


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU computes in bfloat16; true where nobody says."""
    if not cpuinfo.is_file():
        return True
    flags = {
        flag
        for line in cpuinfo.read_text().splitlines()
        if line.startswith(("flags", "Features"))
        for flag in line.split()
    }
    return not flags or bool(flags & {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})
