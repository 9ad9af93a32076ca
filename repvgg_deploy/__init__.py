"""repvgg-deploy: from a RepVGG training checkpoint to a deployed network, every step proved."""

__version__ = "0.1.0"
