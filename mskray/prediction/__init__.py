"""Batch prediction with Ray Data. `readers` never imports torch: its tasks start in a second, not in six."""
