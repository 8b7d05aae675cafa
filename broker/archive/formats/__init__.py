"""What a container is: a Hadoop SequenceFile, and S-DICOM in it."""
