"""A simulated `npu` device, so that what npukv does on one can be run without one. It changes the process it is in."""
