"""Both tiers of stored pictures: original files online, S-DICOM containers. SDFO is the only door."""
