"""The tested core of the book: does the way a model reasons in training change what it becomes?"""

import contextlib
import ctypes
import os
import sys
import warnings

# OpenMP's threads wait for the next matrix product in a loop. Where other programs need the same cores, long waits make
# training three times slower, so threads should sleep soon. A thousand rounds of the loop, some microseconds, last
# until the next product of a training step (1.1 times as fast as sleeping at once) and cost other programs nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# tqdm warns in notebooks without ipywidgets. Static pages cannot show its widget anyway.
warnings.filterwarnings("ignore", message="IProgress not found")

if sys.platform == "linux":
    # A training step frees tensors and soon needs as much memory again. glibc shall keep that memory instead of giving
    # it back to the kernel, which would fill every page with zeros again (training is 1.07 times as fast on two cores).
    with contextlib.suppress(OSError, AttributeError):
        _libc = ctypes.CDLL("libc.so.6")
        _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of the settings in malloc.h; their values are bytes
        _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        _libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
