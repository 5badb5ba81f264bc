"""DICOM from the ward: series in, NIfTI without identifiers or DICOM segmentations out."""
