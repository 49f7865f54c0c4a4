"""Prints a score."""

import torch

print(float(torch.ones(3).sum()))
