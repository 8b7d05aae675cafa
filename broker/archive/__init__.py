"""Both tiers of stored pictures: original files online, S-DICOM containers.

Pictures of either tier are read through SDFO (`sdfo`). What comes in is written to `online` directly.
"""
