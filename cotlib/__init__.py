"""The tested core of the book: does the way a model reasons in training change what it becomes?"""

import contextlib
import ctypes
import os
import sys
import warnings

# Threads that wait should soon sleep: where other programs want the same cores, spinning ones slow everything down tenfold.
# A thousand turns, some microseconds, bridge the gap to the next product (training 1.1 times as fast) and cost the others nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# tqdm asks for a notebook widget that static pages cannot show; a reader of the book cannot act on it.
warnings.filterwarnings("ignore", message="IProgress not found")

if sys.platform == "linux":
    # Tensors of a training step are freed and wanted again at once: keep their memory instead of giving it back to the
    # kernel, which hands it out zeroed page by page (training 1.07 times as fast on two cores, system time halved).
    with contextlib.suppress(OSError, AttributeError):
        _libc = ctypes.CDLL("libc.so.6")
        _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
        _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        _libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
