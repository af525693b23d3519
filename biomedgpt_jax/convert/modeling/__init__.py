"""The PyTorch files that are copied into exports which no stock architecture can express. Never imported here."""
