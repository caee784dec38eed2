"""Raw files of others: folders, archives and HDF5, read with care."""
