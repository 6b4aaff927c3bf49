"""Vectors between a CUDA device and this host's memory, which the device reads and writes by itself where it is pinned.

Memory that others own, such as what a worker shares with the server, is registered with CUDA once; what is allocated
here is pinned from the start. From other memory the driver copies through a buffer of its own, and the host waits.
"""

import logging
import weakref
from contextlib import suppress

import torch
from torch import Tensor

log = logging.getLogger(__name__)

READ_ONLY = 0x08  # cudaHostRegisterReadOnly, for memory that this process may not write


def pinned(like: Tensor) -> Tensor:
    """As ``torch.empty_like``, in pinned memory of the host."""
    return torch.empty_like(like, device="cpu", pin_memory=True)


class Staging:
    """For one ``device``. Gradients leave it on a stream of their own, while the backward pass goes on."""

    def __init__(self, device: torch.device):
        self.device, self.side = device, torch.cuda.Stream(device)
        self.leaving: list[Tensor] = []  # their memory on the device is not used again before they are out
        self.registered: dict[int, Tensor] = {}  # by address; memory has to stay as long as CUDA knows it
        weakref.finalize(self, forget, self.registered)

    def pin(self, vector: Tensor, writable: bool = True) -> None:
        """Register the memory of ``vector``, which stays as it is where CUDA does not take it."""
        address, flags = vector.data_ptr(), 0 if writable else READ_ONLY
        if address in self.registered:
            return
        if error := int(torch.cuda.cudart().cudaHostRegister(address, vector.nbytes, flags)):
            size = f"{vector.nbytes:,} bytes"
            log.info("memory of %s cannot be pinned, so copies of it are slower (CUDA error %d)", size, error)
            self._clear_error()
        else:
            self.registered[address] = vector

    def unpin(self, vector: Tensor) -> None:
        """Let go of the memory of ``vector``, which its owner will free."""
        if self.registered.pop(vector.data_ptr(), None) is not None:
            torch.cuda.cudart().cudaHostUnregister(vector.data_ptr())

    def _clear_error(self) -> None:
        """CUDA remembers the failure for this thread, and torch would blame its next kernel for it: this one."""
        with suppress(RuntimeError):
            torch.ones(1, device=self.device)

    def send(self, place: Tensor, values: Tensor) -> None:
        """Copy what is on the device to a ``place`` on the host, after all that the device was given before."""
        self.side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.side):
            place.copy_(values, non_blocking=True)
        self.leaving.append(values)

    def wait(self) -> None:
        """Until all that was sent has arrived."""
        self.side.synchronize()
        self.leaving.clear()


def forget(registered: dict[int, Tensor]) -> None:
    """CUDA lets go of the memory, which may then be freed."""
    for address in registered:
        torch.cuda.cudart().cudaHostUnregister(address)
    registered.clear()
