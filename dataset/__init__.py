"""CT volumes and X-rays: intensity, geometry, files, phantoms, manifests and the LightningDataModule."""
