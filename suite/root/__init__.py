"""v3bench: do the numbers published for DeepSeek-V3 hold, and what do they become on your hardware?"""

__version__ = "0.1.0"
