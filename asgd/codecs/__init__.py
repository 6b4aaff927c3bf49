"""Codecs: vectors made smaller for the way. A codec is part of the method, so it acts the same on every engine."""

from asgd.codecs.base import Codec, Encoded, Identity
from asgd.codecs.powersgd import PowerSGD
from asgd.codecs.qsgd import QSGD
from asgd.codecs.rounding import BFloat16, Float16
from asgd.codecs.sign import Sign
from asgd.codecs.sparse import RandomBlock, TopK

__all__ = ["QSGD", "BFloat16", "Codec", "Encoded", "Float16", "Identity", "PowerSGD", "RandomBlock", "Sign", "TopK"]
