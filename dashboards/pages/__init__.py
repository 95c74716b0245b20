"""The pages: each has a layout and registers the callbacks behind it."""
