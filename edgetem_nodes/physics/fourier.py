"""Unitary Fourier transforms of torch tensors, on whatever device they are; on a CPU those of scipy, which are faster."""

from __future__ import annotations

import scipy.fft
import torch


def ifft(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Inverse transform along one axis."""
    if values.device.type == "cpu":
        return torch.from_numpy(scipy.fft.ifft(values.numpy(), axis=axis, norm="ortho"))
    return torch.fft.ifft(values, dim=axis, norm="ortho")


def fft2(values: torch.Tensor, overwrite: bool = False) -> torch.Tensor:
    """Transform along the last two axes; `overwrite`: the values may be lost."""
    if values.device.type == "cpu":
        return torch.from_numpy(scipy.fft.fft2(values.numpy(), norm="ortho", overwrite_x=overwrite))
    return torch.fft.fft2(values, norm="ortho")


def ifft2(values: torch.Tensor, overwrite: bool = False) -> torch.Tensor:
    """Inverse transform along the last two axes; `overwrite`: the values may be lost."""
    if values.device.type == "cpu":
        return torch.from_numpy(scipy.fft.ifft2(values.numpy(), norm="ortho", overwrite_x=overwrite))
    return torch.fft.ifft2(values, norm="ortho")


def intensity(wave: torch.Tensor) -> torch.Tensor:
    """Squared modulus, float32."""
    if wave.device.type == "cpu":
        # Strided access to real and imaginary parts is five times faster in numpy.
        array = wave.numpy()
        return torch.from_numpy(array.real ** 2 + array.imag ** 2)
    return wave.real ** 2 + wave.imag ** 2


def centred(values: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """Block of the last two axes, `count` elements from frequency `first` < 0 on, of a transform: zero at element -first."""
    last = first + count
    rows = torch.cat([values[..., first:, :], values[..., :last, :]], -2)
    return torch.cat([rows[..., first:], rows[..., :last]], -1)


def is_fast(samples: int) -> bool:
    """Whether a transform of so many samples is fast: no prime factor above 11."""
    return scipy.fft.next_fast_len(samples) == samples


def fast_length(samples: int) -> int:
    """The smallest even number of samples, at least as many, whose transform is fast."""
    samples += samples % 2
    while not is_fast(samples):
        samples = scipy.fft.next_fast_len(samples)
        samples += samples % 2
    return samples
