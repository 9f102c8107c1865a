"""A pytest plugin that changes nothing: for checks that need no device."""
