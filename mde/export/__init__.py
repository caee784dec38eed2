"""Trained models as single ONNX files: written, checked against torch, and run."""

from mde.export.job import Report, export_onnx
from mde.export.metadata import read_metadata
from mde.export.onnx_predictor import OnnxPredictor

__all__ = ["OnnxPredictor", "Report", "export_onnx", "read_metadata"]
