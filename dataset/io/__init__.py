"""Reads and writes CT volumes and X-rays: NIfTI, DICOM, images."""
