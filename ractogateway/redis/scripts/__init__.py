"""Server-side Lua, and one typed builder of a call for each script."""
