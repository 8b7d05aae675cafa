"""DICOM upper layer on pynetdicom."""
