"""The interactive page: `protoseg app`."""
