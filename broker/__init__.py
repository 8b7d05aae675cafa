"""IHE XDS-I / PIX integration broker of a regional medical-imaging centre."""

__version__ = "0.2.0"
