"""Readers and writers of CT volumes and X-rays: NIfTI, DICOM, images."""
