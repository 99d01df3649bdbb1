"""Evaluation of trained models on fixed windows."""
