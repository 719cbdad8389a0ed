"""mskray: distributed training and serving for musculoskeletal imaging, on Ray."""

__version__ = "0.1.0"
