"""stub"""
import numpy as np
def take(frames, rows):
    return np.arange(len(frames.at))
