"""JAX training stack for biomedical vision-language models."""

__version__ = "0.5.0"
