"""ATNA audit trail: DICOM audit messages (PS3.15 A.5) into a local append-only spool."""
