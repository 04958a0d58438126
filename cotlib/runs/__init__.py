"""What lies on disk: whole files, manifests, the units of a run and what they depend on."""
