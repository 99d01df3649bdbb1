"""What `import vgpt` offers: the commands as functions, which return objects for notebooks and programs."""
