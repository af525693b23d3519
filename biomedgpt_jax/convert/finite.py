"""Numbers that float32 does not have, found in one pass over the bits of a tensor."""

import ml_dtypes
import numpy as np

# The least magnitude, as bits, that becomes no number here: infinity, and of float64 what float32 rounds to it.
_LEAST: dict[np.dtype, int] = {
    np.dtype(np.float16): 0x7C00,
    np.dtype(ml_dtypes.bfloat16): 0x7F80,
    np.dtype(np.float32): 0x7F80_0000,
    np.dtype(np.float64): 0x47EF_FFFF_F000_0000,
}
_BLOCK = 1 << 14  # numbers that are looked at together: they stay in the cache


def count_not_finite(tensor: np.ndarray) -> int:
    """How many numbers of a floating tensor are NaN, infinite, or beyond float32."""
    bits = np.ascontiguousarray(tensor).reshape(-1).view(f"u{tensor.dtype.itemsize}")
    least = bits.dtype.type(_LEAST[tensor.dtype] << 1)  # without the sign
    blocks = (bits[at : at + _BLOCK] << bits.dtype.type(1) for at in range(0, bits.size, _BLOCK))
    return sum(int((block >= least).sum()) for block in blocks if block.max() >= least)
