"""What a training process takes from its machine, at the moment of asking."""

import psutil
import torch


class Usage:
    """Measures this process and its machine; shares of the processor are means since the last measurement.

    Args:
        device: that the process computes on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        # The first answer of psutil has no interval to be a mean of.
        self._process.cpu_percent()
        psutil.cpu_percent()

    def measure(self) -> dict[str, float]:
        """Return the figures under their names in the tracking schema; what cannot be read here is left out."""
        try:
            found = {
                "system/cpu_percent": psutil.cpu_percent(),
                "system/process_cpu_percent": self._process.cpu_percent(),
                "system/resident_bytes": float(self._process.memory_info().rss),
                "system/memory_percent": psutil.virtual_memory().percent,
            }
        except (psutil.Error, OSError):
            found = {}
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            found["system/gpu_allocated_bytes"] = float(torch.cuda.memory_allocated(self._device))
            found["system/gpu_reserved_bytes"] = float(torch.cuda.memory_reserved(self._device))
            found["system/gpu_memory_percent"] = 100 * (total - free) / total
        return found
