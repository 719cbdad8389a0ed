"""Simulations of large clusters on one machine, without a pixel, and what large work needs: see infra/SCALING.md."""
