"""What the command line, the Python API and the Feast plug-in share. Never imports typer, rich or feast."""
