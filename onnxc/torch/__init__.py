"""Training: a Model as a torch module, and the Trainer that passes receive. The one room that imports torch."""

from __future__ import annotations
