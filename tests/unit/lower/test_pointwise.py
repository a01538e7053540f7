import numpy as np

from .harness import check


def test_relu():
    check("Relu", np.arange(-3, 4, dtype=np.float32).reshape(7, 1))
