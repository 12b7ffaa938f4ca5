"""Images made and written for the tests that read them."""

import cv2
import numpy as np

from pipeline.images.cache import Rows
from pipeline.nets.normalize import by_group

LOSSLESS = {".webp": [cv2.IMWRITE_WEBP_QUALITY, 101]}
TO_CV = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}


def pixels(channels, dtype=np.uint8, size=(6, 10), seed=0):
    # Alpha stays above 0: WebP is free to change the colour of what nobody sees.
    return np.random.default_rng(seed).integers(1, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)


def encode(image, ext):
    code = TO_CV[image.shape[2]]
    done, data = cv2.imencode(ext, image if code is None else cv2.cvtColor(image, code), LOSSLESS.get(ext, []))
    assert done
    return data.tobytes()


def grouped(images, groups, channels, unread=()):
    """Images to be normalised by group."""
    return Rows([images], np.zeros((len(images), 0)), by_group(images, groups, channels, unread))
