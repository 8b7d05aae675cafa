"""DICOM: upper layer, messages and services of our own on sockets; pynetdicom lists the SOP classes."""
