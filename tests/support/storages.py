"""Bytes of all storages that calls touch, read again at every call: sharding empties and refills them in place."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class StorageBytes(TorchDispatchMode):
    """A meter as ``LiveBytes`` for sharded networks, slower; of a sharded tensor this process's part counts."""

    def __init__(self):
        super().__init__()
        self.known, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter((args, kwargs, result)):
            if isinstance(tensor, torch.Tensor):
                storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
                if storage._cdata not in self.known:
                    self.known[storage._cdata] = weakref.ref(storage)
                    weakref.finalize(storage, self.known.pop, storage._cdata, None).atexit = False
        self._read()
        return result

    def above(self):
        self._read()
        above, self.peak = self.peak - self.now, self.now
        return above

    def _read(self):
        alive = (storage() for storage in list(self.known.values()))
        self.now = sum(storage.nbytes() for storage in alive if storage is not None)
        self.peak = max(self.peak, self.now)
